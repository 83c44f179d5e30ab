"""A tiny study, from text files to score files, made without a model: losses are drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from forged_messages import write_message
from tokenbounds.certificates.evidence import CertificateInputs, LinkInputs
from tokenbounds.config import ByteTokenizer, CorpusSpec, EvaluationSpec, TextSource
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.files import sha256_file
from tokenbounds.messages.container import Part
from tokenbounds.scores.entropies import round_entropies
from tokenbounds.scores.plan import plan_corpus
from tokenbounds.scores.plan_file import expand_blocks, read_plan
from tokenbounds.scores.provenance import ENTROPY_FIELD, SCORE_SCHEMA, Provenance
from tokenbounds.scores.store import score_writer

VOCABULARY = 256
DOCUMENT_LENGTHS = (700, 0, 1, 333, 64, 1200, 17)


def with_link(inputs: CertificateInputs, **changes) -> CertificateInputs:
    """The inputs with another message or other scores of the certified link."""
    return replace(inputs, links=(*inputs.links[:-1], replace(inputs.certified, **changes)))


@dataclass(frozen=True)
class TinyStudy:
    """Folders and knobs of a study in `root`."""

    root: Path
    corpus: str = "letters"
    corpus_seed: int = 1
    message: str = "chain"
    message_seed: int = 2
    evaluation: str = "default"
    sample_tokens: int | None = None
    visible_tokens: int | None = None
    entropies: bool = False

    @property
    def inputs(self) -> CertificateInputs:
        folder = self.root / "scores" / self.corpus / self.evaluation / self.message
        message = self.root / "messages" / f"{self.message}.tbm"
        return CertificateInputs(
            corpus=self.root / "corpora" / self.corpus,
            plan=self.root / "plans" / self.corpus / f"{self.evaluation}.parquet",
            links=(LinkInputs(message, tuple(folder / f"shard-{k:05d}.parquet" for k in range(2))),),
        )

    def build(self) -> TinyStudy:
        """Make whatever is missing."""
        if not self.inputs.corpus.exists():
            self._build_corpus()
        if not self.inputs.certified.message.exists():
            self._build_message()
        if not self.inputs.plan.exists():
            self._build_plan()
        if not self.inputs.certified.scores[0].exists():
            self._build_scores()
        return self

    def _build_corpus(self) -> None:
        rng = np.random.default_rng(self.corpus_seed)
        texts = self.root / "texts" / self.corpus
        texts.mkdir(parents=True)
        for number, length in enumerate(DOCUMENT_LENGTHS):
            letters = rng.choice(list(b"etaoin shrdlu\n"), size=length)
            (texts / f"{number}.txt").write_bytes(bytes(letters.astype(np.uint8)))
        spec = CorpusSpec(
            source=TextSource(kind="text", paths=(str(texts / "*.txt"),)),
            tokenizer=ByteTokenizer(kind="bytes"),
            shards=3,
        )
        tokenize_corpus(spec, self.corpus, self.inputs.corpus)

    def _build_message(self) -> None:
        model = {"family": "markov", "order": 0, "start_id": 0, "vocabulary_size": VOCABULARY}
        header = {"coder": "static", "model": model, "quantizer": {"kind": "counts", "levels": 16, "threshold": 2}}
        data = np.random.default_rng(self.message_seed).bytes(25)
        write_message(self.inputs.certified.message, header, [Part("symbols", data)])

    def _build_plan(self) -> None:
        stride = 24 if self.visible_tokens is None else None
        sampled = {"sample_tokens": self.sample_tokens, "seed": 5, "shards": 2}
        spec = EvaluationSpec(context=32, stride=stride, visible_tokens=self.visible_tokens, **sampled)
        plan_corpus(self.inputs.corpus, spec, self.inputs.plan)

    def _build_scores(self) -> None:
        corpus, plan = Corpus.open(self.inputs.corpus), read_plan(self.inputs.plan)
        for shard, path in enumerate(self.inputs.certified.scores):
            provenance = Provenance(
                message_sha256=sha256_file(self.inputs.certified.message),
                manifest_sha256=sha256_file(self.inputs.corpus / "manifest.json"),
                plan_sha256=plan.sha256,
                shard=shard,
                dtype="float32",
                vocabulary_size=VOCABULARY,
                software={"tests": "0"},
                entropies=self.entropies,
            )
            with score_writer(path, provenance) as writer:
                writer.write(self._score_rows(corpus, plan, shard))

    def _score_rows(self, corpus: Corpus, plan, shard: int) -> pa.RecordBatch:
        keys = expand_blocks(plan.shard(shard))
        pairs = zip(keys["document"].tolist(), keys["position"].tolist(), strict=True)
        token = np.array([corpus.document(document)[position] for document, position in pairs], np.int32)
        rng = np.random.default_rng([self.message_seed, shard])
        nll_bits = rng.gamma(2.0, 0.7, len(token)).astype(np.float32)
        rank = np.minimum(1 + np.floor(np.exp2(nll_bits - 1) * rng.random(len(token))), VOCABULARY)
        columns = [*keys.values(), token, nll_bits, rank]
        arrays = [pa.array(values).cast(field.type) for values, field in zip(columns, SCORE_SCHEMA, strict=True)]
        rows = pa.RecordBatch.from_arrays(arrays, schema=SCORE_SCHEMA)
        if self.entropies:  # they say something about the loss
            guess = round_entropies(np.minimum(0.8 * nll_bits + rng.random(len(token)), 8))
            rows = rows.append_column(ENTROPY_FIELD, pa.array(guess))
        return rows


def with_losses(rows, nll_bits):
    """Rows of scores, table or batch, with other losses, and no rank above what they leave: p · rank ≤ 1."""
    rank = np.minimum(rows["rank"].to_numpy(), np.maximum(np.floor(np.exp2(nll_bits)), 1))
    for name, values in {"nll_bits": nll_bits, "rank": rank}.items():
        index = rows.schema.get_field_index(name)
        field = rows.schema.field(index)
        rows = rows.set_column(index, field, pa.array(values).cast(field.type))
    return rows
