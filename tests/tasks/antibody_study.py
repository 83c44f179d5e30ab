"""A study of invented antibodies, from an AIRR table to certificates: two V genes, clonal families, Markov chains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from json_certificates import certify_bound
from tokenbounds.certificates.evidence import CertificateInputs, LinkInputs
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import (
    AirrSource,
    AntibodyTokenizer,
    BoundsSpec,
    CorpusSpec,
    EvaluationSpec,
    MarkovModel,
    MessageSpec,
)
from tokenbounds.config.quantizers import CountsQuantizer
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.models.markov.counts import fit_markov
from tokenbounds.scores.plan import plan_corpus
from tokenbounds.scores.scoring import score_message

CODONS = {
    **{"A": "GCT", "C": "TGT", "D": "GAT", "E": "GAA", "F": "TTT", "G": "GGT", "H": "CAT", "I": "ATT", "K": "AAA"},
    **{"L": "CTG", "M": "ATG", "N": "AAT", "P": "CCG", "Q": "CAG", "R": "CGT", "S": "AGC", "T": "ACC", "V": "GTT"},
    **{"W": "TGG", "Y": "TAT"},
}
GAPS = (10, 31, 32, 33, 34, 60, 61, 73)
COLUMNS = (
    "sequence_id",
    "productive",
    "locus",
    "v_call",
    "clone_id",
    "sequence_alignment",
    "germline_alignment",
    "junction",
)
BOUNDS = {"top_k": (1, 3), "alphas": (0.001, 0.1), "lambdas": 4, "bounds": ("betting", "documents")}


def write_airr(path: Path, *, families: int = 12, members: int = 4, seed: int = 0) -> Path:
    """Families of heavy chains: V genes end at Cys 104, CDR3s are random, every member has a few mutations."""
    generator = np.random.default_rng(seed)
    letters = sorted(CODONS)
    # The genes do not depend on the seed: tables of several seeds are repertoires of one species.
    genes = np.random.default_rng(99)
    v_genes = ["".join(genes.choice(letters, 104 - len(GAPS) - 1)) + "C" for _ in range(2)]
    lines = ["\t".join(COLUMNS)]
    for family in range(families):
        gene = int(generator.integers(2))
        cdr3 = "".join(generator.choice(letters, int(generator.integers(6, 14))))
        germline = v_genes[gene] + cdr3 + "WGQGTLVTVSS"
        for member in range(members):
            own = list(germline)
            for place in generator.integers(0, len(v_genes[gene]) - 1, 3):
                own[place] = str(generator.choice(letters))
            cdr3_bases = "".join(CODONS[letter] for letter in cdr3)
            masked = gapped(v_genes[gene]) + "N" * len(cdr3_bases) + bases("WGQGTLVTVSS")
            row = (
                f"s{family}.{member}",
                "T",
                "IGH",
                f"IGHV{gene + 1}-1*01",
                f"c{family}",
                gapped("".join(own[: len(v_genes[gene])])) + bases("".join(own[len(v_genes[gene]) :])),
                masked,
                bases(f"C{cdr3}W"),
            )
            lines.append("\t".join(row))
    path.write_text("\n".join(lines) + "\n")
    return path


def bases(residues: str) -> str:
    return "".join(CODONS[residue] for residue in residues)


def gapped(v_residues: str) -> str:
    """The nucleotides of a V gene up to Cys 104 with IMGT's gaps."""
    left = iter(v_residues)
    return "".join("..." if place in GAPS else CODONS[next(left)] for place in range(1, 105))


@dataclass(frozen=True)
class AntibodyStudy:
    """Folders of a study in `root`."""

    root: Path

    def corpus(self, name: str = "heavy", *, layout: dict | None = None, **table) -> Path:
        folder = self.root / "corpora" / name
        if not folder.exists():
            path = write_airr(self.root / f"{name}.tsv", **table)
            layout = layout or {"kind": "single"}
            source = AirrSource(kind="airr", paths=(str(path),), clone="clone_id", layout=layout)
            spec = CorpusSpec(source=source, tokenizer=AntibodyTokenizer(kind="antibody"), shards=2)
            tokenize_corpus(spec, name, folder)
        return folder

    def message(self, order: int, corpus: str = "heavy") -> Path:
        path = self.root / "messages" / f"{corpus}-{order}.tbm"
        if not path.exists():
            model = self.root / "models" / f"{corpus}-{order}"
            row = MarkovModel(kind="markov", corpus=corpus, order=order)
            fit_markov(row, Corpus.open(self.corpus(corpus)), model)
            spec = MessageSpec(model=f"{corpus}-{order}", quantizer=CountsQuantizer(kind="counts", threshold=1))
            encode_model(model, spec, path, path.with_suffix(".json"))
        return path

    def inputs(self, order: int, corpus: str = "heavy", trained_on: str | None = None) -> CertificateInputs:
        """Message and scores; the chain was counted on `trained_on`, if that is another corpus."""
        message = self.message(order, trained_on or corpus)
        plan = self.root / "plans" / corpus / "whole.parquet"
        if not plan.exists():
            plan_corpus(self.corpus(corpus), EvaluationSpec(context=256, shards=2), plan)
        folder = self.root / "scores" / corpus / message.stem
        scores = tuple(folder / f"shard-{shard:05d}.parquet" for shard in range(2))
        for shard, path in enumerate(scores):
            if not path.exists():
                score_message(message, self.corpus(corpus), plan, shard, path)
        held_out = None if trained_on is None else (self.corpus(trained_on),)
        because = "" if trained_on is None else "Counted on other sequences on 2026-01-31."
        return CertificateInputs(
            self.corpus(corpus), plan, (LinkInputs(message, scores),), held_out=held_out, held_out_because=because
        )

    def certify(self, name: str, order: int, corpus: str = "heavy", trained_on: str | None = None, **bounds) -> Path:
        out = self.root / "certificates" / f"{name}.json"
        inputs = self.inputs(order, corpus, trained_on)
        certify_bound(
            name, "antibodies", inputs, BoundsSpec(**{**BOUNDS, **bounds}), out, model=inputs.certified.message.stem
        )
        return out
