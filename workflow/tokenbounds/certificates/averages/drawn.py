"""Averages over a corpus by reference, from the documents that were drawn (docs/bounds.md, "Corpora by reference")."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.ratio import lower_ratio, upper_ratio
from tokenbounds.bounds.sampling import draw_order, lower_mean
from tokenbounds.certificates.averages.passes import Average, Sample
from tokenbounds.corpus.reference import ReferenceEntry
from tokenbounds.scores.plan import count_blocks
from tokenbounds.scores.plan_file import Plan

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RatioAverage(Average):
    """An average over the tokens of the whole corpus: a ratio of sums over its documents.

    `draws` holds what each document adds to the estimate to first order, so that their deviation is its own.

    Attributes
    ----------
    sums, tokens
        Of each drawn document [documents], or unbiased estimates of both from some of its blocks.
    longest
        Most tokens that a document may have.
    """

    sums: Floats = field(default_factory=lambda: np.empty(0))
    tokens: Floats = field(default_factory=lambda: np.empty(0))
    longest: int = 1

    @classmethod
    def of(cls, sums: Floats, tokens: Floats, longest: int, estimated: float | None = None) -> RatioAverage:
        """From sums and tokens of documents [documents]; `estimated`, if all documents give another estimate."""
        ratio = float(sums.sum() / max(1, tokens.sum()))
        influence = ratio + (sums - ratio * tokens) / max(1.0, float(tokens.mean()))
        return cls(ratio if estimated is None else estimated, influence, sums, tokens, longest)

    def combined(self, factor: float, other: Average, other_factor: float) -> RatioAverage:
        """The average of a weighted sum of two quantities."""
        assert isinstance(other, RatioAverage)
        sums = factor * self.sums + other_factor * other.sums
        return self.of(sums, self.tokens, self.longest, factor * self.mean + other_factor * other.mean)

    def upper(self, low: float, high: float, delta: float) -> float:
        """Bound the corpus average from above; values of tokens are in [low, high]."""
        return upper_ratio(self.sums, self.tokens, low, high, self.longest, delta)

    def lower(self, low: float, high: float, delta: float) -> float:
        """Bound the corpus average from below; values of tokens are in [low, high]."""
        return lower_ratio(self.sums, self.tokens, low, high, self.longest, delta)


@dataclass(frozen=True)
class DrawnDocuments(Sample):
    """The scored blocks of the drawn documents (docs/bounds.md, "Corpora by reference").

    What is i.i.d. is a document, and `order` is one of documents.

    Attributes
    ----------
    document
        The document of each block [blocks].
    tokens
        Tokens of each document [documents], 0 for an empty one; estimated where only some of its blocks were scored.
    longest
        The most that `tokens` can be, whatever the document.
    factors
        Blocks of each document over those that were scored [documents]: what their sums are multiplied by.
    """

    document: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    tokens: Floats = field(default_factory=lambda: np.empty(0))
    longest: int = 1
    factors: Floats = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of_plan(cls, plan: Plan, lengths: Ints, reference: ReferenceEntry) -> DrawnDocuments:
        """The documents of a plan, in an order that does not depend on them.

        Parameters
        ----------
        plan
            Which scores all blocks of what was drawn, or some of each document.
        lengths
            Tokens of each drawn document [documents].
        reference
            What the manifest says of the corpus.
        """
        blocks, length, document = plan.columns("block", "length", "document")
        held = count_blocks(lengths, plan.context, plan.stride)  # [documents]
        factors = held / np.maximum(1, np.bincount(document, minlength=len(lengths)))
        tokens = factors * np.bincount(document, weights=length, minlength=len(lengths))
        longest = reference.max_tokens
        if plan.mode == "partial":
            longest = plan.context * int(count_blocks(np.array([longest]), plan.context, plan.stride)[0])
        order = draw_order(np.ones(len(lengths), dtype=np.int64), reference.seed)
        return cls(
            *(blocks, np.ones_like(blocks), length, order),
            document=document,
            tokens=tokens,
            longest=longest,
            factors=factors,
        )

    def average(self, means: Floats) -> Average:
        """The average over the corpus, from block averages [blocks]."""
        return RatioAverage.of(self._sums(means), self.tokens, self.longest)

    def average_chosen(self, means: Floats) -> Average:
        """The same for a quantity that the pilot chose: the documents that bound it are those after the pilot."""
        sums, rest = self._sums(means), self.order[self.pilot_draws :]
        estimate = float(sums.sum() / max(1, self.tokens.sum()))
        return RatioAverage.of(sums[rest], self.tokens[rest], self.longest, estimate)

    @property
    def pilot(self) -> DrawnDocuments:
        """The first documents alone, which choose what the others bound (docs/bounds.md, "Choosing on a pilot")."""
        documents = np.sort(self.order[: self.pilot_draws])
        kept = np.isin(self.document, documents)  # [blocks]
        return DrawnDocuments(
            *(self.blocks[kept], self.draws[kept], self.lengths[kept], np.arange(len(documents)), True),
            document=np.searchsorted(documents, self.document[kept]),
            tokens=self.tokens[documents],
            longest=self.longest,
            factors=self.factors[documents],
        )

    def _sums(self, means: Floats) -> Floats:
        """Sums over documents [documents] of a quantity, from its block averages [blocks]; estimated as tokens are."""
        sums: Floats = self.factors * np.bincount(
            self.document, weights=means * self.lengths, minlength=len(self.tokens)
        )
        return sums


@dataclass(frozen=True)
class CorpusSize:
    """A lower bound on the size of a corpus by reference, and what the statement costs.

    Attributes
    ----------
    tokens
        A lower confidence bound on m = D x E[T].
    delta
        Its failure probability; the rows share the rest.
    """

    tokens: int
    delta: Fraction

    SHARE: ClassVar[Fraction] = Fraction(1, 20)
    """Of the certificate's delta."""

    @classmethod
    def at_least(cls, reference: ReferenceEntry, lengths: Ints, delta: Fraction) -> CorpusSize:
        """Bound m from below with a twentieth of `delta`: documents have 0 to `max_tokens` tokens, and are i.i.d.

        Parameters
        ----------
        reference
            What the manifest says of the corpus.
        lengths
            Tokens of each drawn document [documents].
        delta
            Of the whole certificate.
        """
        own = delta * cls.SHARE
        mean = lower_mean(lengths, 0.0, float(reference.max_tokens), float(own))
        return cls(max(1, math.floor(reference.rows * mean)), own)
