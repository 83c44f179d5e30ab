"""How far a compressed model strays from the original, certified (docs/bounds.md, "Faithfulness").

Divergence and changed first choices depend on what precedes a token alone. Over a corpus that was scored whole their
averages are numbers, with nothing to bound; over one of which a sample was scored, or documents were drawn, the draw
bounds them; and for a new document they are losses as any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, with_config

from tokenbounds.bounds.documents import DocumentSums, bound_documents_betting
from tokenbounds.bounds.ledger import log_fraction
from tokenbounds.bounds.sampling import BlockSums
from tokenbounds.certificates.averages.passes import Average, Sample, ScoreStream
from tokenbounds.certificates.file_records import STRICT, BaseRecord, ExactFraction
from tokenbounds.scores.divergence import DIVERGENCE_ALPHA, most_divergence

Floats = npt.NDArray[np.float64]
Measure = Literal["kl_bits", "first_choice_changed"]

MEASURES: tuple[Measure, ...] = ("kl_bits", "first_choice_changed")
SHARE = Fraction(1, 10)
"""Of the certificate's delta, where a sample or documents must be paid for."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class FaithfulnessRow:
    """One statement about how the decoded model's predictions differ from the original's."""

    metric: Annotated[
        Measure,
        Field(description="KL(original ‖ decoded) in bits per token, or the probability that first choices differ"),
    ]
    over: Annotated[
        Literal["tokens", "documents"],
        Field(description="the average over this corpus's tokens, or over those of a new document"),
    ]
    value: Annotated[float, Field(ge=0, description="upper bound; over tokens that were all scored, the average")]
    empirical: Annotated[float, Field(ge=0, description="average over the scored tokens, or over documents")]
    range: Annotated[float, Field(gt=0, description="largest possible value: log2(V / smoothing) bits, or 1")]
    complexity: Annotated[float, Field(ge=0, description="L in nats: λ price and ln(1/delta); 0 over tokens")]
    lambda_: Annotated[float | None, Field(alias="lambda", description="λ chosen from the grid; null over tokens")]
    delta: Annotated[ExactFraction, Field(description="failure probability of this row; 0 where nothing can fail")]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """How far the certified model strays from the one that its message was made from."""

    original: Annotated[BaseRecord, Field(description="the model with whose predictions it was compared")]
    smoothing: Annotated[
        float, Field(gt=0, lt=1, description="weight of a uniform prediction in the decoded model's, fixed beforehand")
    ]
    delta: Annotated[ExactFraction, Field(description="failure probability of these rows together")]
    rows: Annotated[tuple[FaithfulnessRow, ...], Field(min_length=1)]

    def row(self, metric: Measure, over: str = "tokens") -> FaithfulnessRow | None:
        """One of the rows; None if it is not stated."""
        return next((row for row in self.rows if (row.metric, row.over) == (metric, over)), None)


@dataclass
class _Sums:
    """What one pass adds up: of all tokens, by block of a sample, by document where documents are bounded."""

    blocks: BlockSums | None
    documents: DocumentSums | None
    parts: list[float] = field(default_factory=list)
    tokens: int = 0

    def add(self, block: npt.NDArray[np.int64], document: npt.NDArray[np.int64], values: Floats) -> None:
        """Add tokens [n]: their blocks, documents and values."""
        self.parts.append(math.fsum(values))
        self.tokens += len(values)
        if self.blocks is not None:
            self.blocks.add(block, values)
        if self.documents is not None:
            self.documents.add(document, values)

    def average(self, sample: Sample | None) -> Average:
        """The average over tokens, with draws if a sample was scored; nothing was chosen, so all of them bound it."""
        if sample is None or self.blocks is None:
            return Average(math.fsum(self.parts) / self.tokens)
        return sample.average(self.blocks.means())


def spent_delta(delta: Fraction, sample: Sample | None, documents: int | None) -> Fraction:
    """What the statements about faithfulness take of delta, known before the scores: nothing if nothing can fail."""
    return Fraction(0) if sample is None and documents is None else delta * SHARE


def state_faithfulness(
    scores: ScoreStream,
    original: BaseRecord,
    *,
    delta: Fraction,
    sample: Sample | None,
    documents: int | None,
    vocabulary_size: int,
    certificates: int,
    lambdas: int,
) -> Faithfulness:
    """Every row about faithfulness, in one pass (docs/bounds.md, "Faithfulness").

    Parameters
    ----------
    scores
        Scores with the comparison's columns.
    original
        The model that was compared with.
    delta
        From `spent_delta`.
    sample
        The sampled blocks or drawn documents; None if every token was scored.
    documents
        How many documents there are, if their average is to bound a new one's: only where neither model depends on
        them, as no message pays for that. None otherwise.
    vocabulary_size
        V.
    certificates
        How many certificates may share the sample.
    lambdas
        Size of the grid for documents.
    """
    sums = _read(scores, sample, documents)
    ends = dict(zip(MEASURES, (most_divergence(vocabulary_size), 1.0), strict=True))
    own = delta / len(MEASURES)
    rows = []
    for metric, high in ends.items():
        average = sums[metric].average(sample)
        paid = own if sample is not None else Fraction(0)
        value = average.upper(0.0, high, float(paid / certificates))
        numbers = {"value": value, "empirical": average.mean, "range": high, "complexity": 0.0}
        rows.append(FaithfulnessRow(metric=metric, over="tokens", **numbers, lambda_=None, delta=str(paid)))
    for metric, high in ends.items() if documents is not None else ():
        totals = sums[metric].documents
        assert totals is not None
        bound = bound_documents_betting(totals.means(), high, -log_fraction(own), lambdas=lambdas)
        numbers = {"value": bound.value, "empirical": bound.empirical, "range": high}
        numbers["complexity"] = bound.complexity_nats
        rows.append(FaithfulnessRow(metric=metric, over="documents", **numbers, lambda_=bound.lambda_, delta=str(own)))
    return Faithfulness(original=original, smoothing=DIVERGENCE_ALPHA, delta=str(delta), rows=tuple(rows))


def _read(scores: ScoreStream, sample: Sample | None, documents: int | None) -> dict[Measure, _Sums]:
    """Sums of both measures."""
    sums: dict[Measure, _Sums] = {
        metric: _Sums(
            None if sample is None else BlockSums(sample.blocks), None if documents is None else DocumentSums(documents)
        )
        for metric in MEASURES
    }
    for block, document, values in _stream(scores):
        for metric, total in sums.items():
            total.add(block, document, values[metric])
    return sums


def _stream(
    scores: ScoreStream,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[Measure, Floats]]]:
    """Yield blocks, documents and both measures of tokens [n]."""
    for batch in scores.iter_batches(("block", "document", *MEASURES)):
        block, document, *measured = (batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names)
        values = {name: each.astype(np.float64) for name, each in zip(MEASURES, measured, strict=True)}
        yield block, document, values
