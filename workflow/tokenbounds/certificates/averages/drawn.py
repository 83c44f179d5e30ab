"""Averages over a corpus by reference, from the documents that were drawn (docs/bounds.md, "Corpora by reference")."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.ratio import lower_ratio, upper_ratio
from tokenbounds.bounds.sampling import lower_mean
from tokenbounds.certificates.averages.passes import Average, Sample
from tokenbounds.corpus.reference import ReferenceEntry
from tokenbounds.scores.plan import Plan, column

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RatioAverage(Average):
    """An average over the tokens of the whole corpus: a ratio of sums over its documents.

    Attributes
    ----------
    sums, tokens
        Of each drawn document [documents].
    longest
        Most tokens that a document may have.
    """

    sums: Floats = field(default_factory=lambda: np.empty(0))
    tokens: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    longest: int = 1

    def upper(self, low: float, high: float, delta: float) -> float:
        """Bound the corpus average from above; values of tokens are in [low, high]."""
        return upper_ratio(self.sums, self.tokens, low, high, self.longest, delta)

    def lower(self, low: float, high: float, delta: float) -> float:
        """Bound the corpus average from below; values of tokens are in [low, high]."""
        return lower_ratio(self.sums, self.tokens, low, high, self.longest, delta)


@dataclass(frozen=True)
class DrawnDocuments(Sample):
    """All blocks of the drawn documents; what is i.i.d. is a document.

    Attributes
    ----------
    document
        The document of each block [blocks].
    tokens
        Tokens of each document [documents], 0 for an empty one.
    longest
        Tokens after which documents are cut.
    """

    document: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    tokens: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    longest: int = 1

    @classmethod
    def of_plan(cls, plan: Plan, documents: int, longest: int) -> DrawnDocuments:
        """The documents of a plan that scores all of what was drawn."""
        blocks, length = column(plan.table, "block"), column(plan.table, "length")
        document = column(plan.table, "document")
        tokens = np.bincount(document, weights=length, minlength=documents).astype(np.int64)
        ones = np.ones_like(blocks)
        order = np.arange(len(blocks))
        return cls(blocks, ones, length, order, document=document, tokens=tokens, longest=longest)

    def average(self, means: Floats) -> Average:
        """The average over the corpus, from block averages [blocks]."""
        sums: Floats = np.bincount(self.document, weights=means * self.lengths, minlength=len(self.tokens)).astype(
            np.float64
        )
        return RatioAverage(float(sums.sum() / self.tokens.sum()), sums=sums, tokens=self.tokens, longest=self.longest)


@dataclass(frozen=True)
class CorpusSize:
    """How large a corpus by reference is at least, and what the statement costs.

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
    def at_least(cls, reference: ReferenceEntry, drawn: DrawnDocuments, delta: Fraction) -> CorpusSize:
        """Bound m from below with a twentieth of `delta`: documents have 0 to `max_tokens` tokens, and are i.i.d."""
        own = delta * cls.SHARE
        mean = lower_mean(drawn.tokens, 0.0, float(reference.max_tokens), float(own))
        return cls(max(1, math.floor(reference.rows * mean)), own)
