"""Recovery of regions: how much of CDR3, for example, does a model reproduce, given what precedes it?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tokenbounds.antibodies.labels import Chain, Region, TokenLabels
from tokenbounds.antibodies.vocabulary import AMINO_ACIDS, GAP, TOKEN_IDS, decode_ids, is_amino_acid
from tokenbounds.config import RecoveryTask
from tokenbounds.corpus.annotations import Annotations
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import TokenboundsError
from tokenbounds.scores.documents import score_documents
from tokenbounds.scores.scorer import vocabulary_size
from tokenbounds.tasks.layouts import Layout, layout_of
from tokenbounds.tasks.predictors import Tokens, continue_greedily

_UNKNOWN, _GAP = TOKEN_IDS["[UNK]"], TOKEN_IDS[GAP]

SCHEMA: dict[str, pl.DataType] = {
    "region": pl.String(),
    "document": pl.Int64(),
    "member": pl.Int64(),
    "truth": pl.String(),
    "written": pl.String(),
    "recovered": pl.Int64(),
    "recovered_stepwise": pl.Int64(),
    "nll_bits": pl.Float64(),
}


@dataclass(frozen=True)
class Question:
    """A region of one chain to be recovered.

    Attributes
    ----------
    region
        The region.
    document, member
        Where the chain is in the corpus.
    chain
        Heavy or light, or NONE if it is not known.
    residues
        The chain.
    span
        The region's residues in it.
    before
        Tokens of the document before the chain.
    """

    region: Region
    document: int
    member: int
    chain: Chain
    residues: str
    span: slice
    before: Tokens


def draw_questions(corpus_directory: Path | str, task: RecoveryTask) -> list[Question]:
    """Draw the sequences of a task: from each drawn document, the last chain that has all the regions.

    It is the last one so that a model that reads clonal families has seen the others.

    Raises
    ------
    TokenboundsError
        If no document of the corpus has such a chain.
    """
    corpus = Corpus.open(corpus_directory, verify=True)
    annotations = Annotations.open(corpus_directory, corpus)
    questions: list[Question] = []
    sequences = 0
    for number in np.random.default_rng(task.seed).permutation(corpus.documents).tolist():
        found = _ask(
            number, corpus.document(number).astype(np.int64), TokenLabels(**annotations.document(number)), task
        )
        questions += found
        sequences += bool(found)
        if sequences == task.sequences:
            break
    if not questions:
        wanted = f"{task.chain or 'any'} chain with {', '.join(task.regions)}"
        raise TokenboundsError(f"{corpus_directory} has no {wanted}: choose other regions, or another corpus.")
    return questions


def _ask(number: int, tokens: Tokens, labels: TokenLabels, task: RecoveryTask) -> list[Question]:
    """The questions about one document; none if none of its chains will do.

    A chain is asked about without its gaps. One with an ambiguous residue is left out, because the right answer is not
    known.
    """
    for start, stop in reversed(list(_chains(tokens, labels))):
        kind = Chain(int(labels.chain[start]))
        letters = is_amino_acid(tokens[start:stop])
        if (task.chain is not None and kind.label != task.chain) or _UNKNOWN in tokens[start:stop]:
            continue
        spans = [_span(labels.region[start:stop][letters], Region[name]) for name in task.regions]
        if any(span is None for span in spans):
            continue
        residues = decode_ids(tokens[start:stop][letters])
        member = int(labels.member[start])
        return [
            Question(Region[name], number, member, kind, residues, span, tokens[:start])
            for name, span in zip(task.regions, spans, strict=True)
            if span is not None
        ]
    return []


def _chains(tokens: Tokens, labels: TokenLabels) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) token of every chain: a run of residues, known or not, and gaps."""
    letters = is_amino_acid(tokens) | np.isin(tokens, (_UNKNOWN, _GAP))
    key = np.where(letters, 1 + 4 * labels.member.astype(np.int64) + labels.chain, 0)
    edges = np.flatnonzero(np.diff(key, prepend=0, append=0))
    for start, stop in itertools.pairwise(edges):
        if key[start]:
            yield int(start), int(stop)


def _span(regions: npt.NDArray[np.int8], region: Region) -> slice | None:
    """Where a region is; None if it is missing or in pieces."""
    inside = np.flatnonzero(regions == region)
    if not len(inside) or inside[-1] - inside[0] + 1 != len(inside):
        return None
    return slice(int(inside[0]), int(inside[-1]) + 1)


def answer_questions(predictor: Any, questions: Sequence[Question], species: str = "human") -> pl.DataFrame:
    """Let a model write each region.

    Parameters
    ----------
    predictor
        A decoded model of the antibody vocabulary, or IgLM.
    questions
        From `draw_questions`.
    species
        What IgLM is told.

    Returns
    -------
    DataFrame
        `SCHEMA`, one row per question. `recovered`: residues that the model's own greedy continuation, of the true
        length, gets right. `recovered_stepwise`: residues that are its first guess after the true residues before them.
        `nll_bits`: the region's loss.
    """
    layout = layout_of(predictor, species)
    rows: list[dict[str, Any]] = []
    for kind in Chain:
        rows += _answer(predictor, layout, kind, [question for question in questions if question.chain is kind])
    order = {(q.document, q.region.label): number for number, q in enumerate(questions)}
    rows.sort(key=lambda row: order[row["document"], row["region"]])
    return pl.DataFrame(rows, schema=SCHEMA)


def _answer(predictor: Any, layout: Layout, kind: Chain, questions: Sequence[Question]) -> list[dict[str, Any]]:
    if not questions:
        return []
    written = [layout.infill(q.residues, q.span, q.before) for q in questions]
    start = layout.start_id(kind)
    corpus = MemoryCorpus([each.tokens for each in written], vocabulary_size(predictor), start)
    losses = score_documents(predictor, corpus)
    lengths = [int(each.chosen.sum()) for each in written]
    prefixes = [each.tokens[~each.chosen] for each in written]
    answers = continue_greedily(predictor, prefixes, lengths, layout.residue_ids, start)
    letters = {int(token): letter for token, letter in zip(layout.residue_ids, AMINO_ACIDS, strict=True)}
    rows = []
    for question, each, (bits, rank), answer in zip(questions, written, losses, answers, strict=True):
        truth = each.tokens[each.chosen]
        rows.append(
            {
                "region": question.region.label,
                "document": question.document,
                "member": question.member,
                "truth": question.residues[question.span],
                "written": "".join(letters[int(token)] for token in answer),
                "recovered": int((answer == truth).sum()),
                "recovered_stepwise": int((rank[each.chosen] == 1).sum()),
                "nll_bits": float(bits[each.chosen].sum(dtype=np.float64)),
            }
        )
    return rows


def summarize_recovery(frame: pl.DataFrame, *, resamples: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """One row per region: shares of residues recovered, with a 95 % percentile bootstrap interval over sequences."""
    generator = np.random.default_rng(seed)
    rows = []
    for region in frame["region"].unique(maintain_order=True).to_list():
        part = frame.filter(pl.col("region") == region)
        lengths = part["truth"].str.len_chars().to_numpy().astype(np.float64)
        row: dict[str, Any] = {"region": region, "sequences": part.height, "residues": int(lengths.sum())}
        sampled = generator.integers(0, part.height, (resamples, part.height))  # rows of `part`
        for name in ("recovered", "recovered_stepwise"):
            right = part[name].to_numpy().astype(np.float64)
            shares = right[sampled].sum(axis=1) / lengths[sampled].sum(axis=1)  # [resamples]
            low, high = np.quantile(shares, [0.025, 0.975])
            row |= {
                name: float(right.sum() / lengths.sum()),
                f"{name}_low": float(low),
                f"{name}_high": float(high),
            }
        row["bits_per_residue"] = float(part["nll_bits"].sum() / lengths.sum())
        rows.append(row)
    return rows
