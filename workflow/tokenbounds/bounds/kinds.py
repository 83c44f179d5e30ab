"""What a row states: which loss it bounds, and by which theorem.

Nothing here computes a bound. The two types name what the rest of the package computes, and answer what callers would
otherwise parse from a name: the k of `top10_error`, or whether `documents_betting` is about tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Literal, Self

__all__ = ["BPD", "BoundKind", "Metric"]


class Metric(str):
    """A loss per token: `bpd`, bits per token after smoothing, or `top{k}_error`, the rate of ranks above k.

    It is a string, its own name, so that it can be written to JSON and tables; the name is parsed once, here.

    """

    k: int | None
    """Number of guesses; None for bits per token."""

    def __new__(cls, name: str) -> Self:
        """Parse a name.

        Raises
        ------
        ValueError
            If it is neither.
        """
        parsed = re.fullmatch(r"bpd|top([1-9]\d{0,8})_error", name)
        if parsed is None:
            raise ValueError(f"'{name}' is not a metric: bpd, or top{{k}}_error with a positive k")
        metric = super().__new__(cls, name)
        metric.k = None if parsed[1] is None else int(parsed[1])
        return metric

    @classmethod
    def top(cls, k: int) -> Self:
        """The rate of tokens that are not among the first k guesses."""
        return cls(f"top{k}_error")

    @classmethod
    def stated(cls, top_k: Iterable[int], vocabulary_size: int) -> tuple[Self, ...]:
        """Bits per token, then every top-k error with k below V."""
        return (cls("bpd"), *(cls.top(k) for k in sorted(set(top_k)) if k < vocabulary_size))

    @property
    def is_error(self) -> bool:
        """Whether it is a probability, which smoothing leaves alone, rather than bits, which are smoothed first."""
        return self.k is not None

    def random_guess(self, vocabulary_size: int) -> float:
        """What uniform guessing among V tokens gives: log2 V bits, or 1 - k / V."""
        return math.log2(vocabulary_size) if self.k is None else 1.0 - self.k / vocabulary_size

    @property
    def label(self) -> str:
        """For people: "BPD", "top-10 error"."""
        return "BPD" if self.k is None else f"top-{self.k} error"

    @property
    def order(self) -> int:
        """Sort key: bits per token first, then errors by k."""
        return self.k or 0


BPD = Metric("bpd")
"""Bits per token."""


class BoundKind(StrEnum):
    """A theorem, by its name in configurations and certificates (docs/bounds.md has a section on each)."""

    AZUMA = "azuma"
    FREEDMAN = "freedman"
    BETTING = "betting"
    TELESCOPED = "telescoped"
    MIXTURE = "mixture"
    CONTROL_VARIATES = "control_variates"
    DOCUMENTS = "documents"
    DOCUMENTS_BETTING = "documents_betting"
    SEQUENCES = "sequences"
    SEQUENCES_BETTING = "sequences_betting"

    @property
    def uses_chain(self) -> bool:
        """Whether it needs cheaper models beside the certified one; if so, it bounds bits per token only."""
        return self.mixes or self is BoundKind.CONTROL_VARIATES

    @property
    def mixes(self) -> bool:
        """Whether it smooths the certified model towards cheaper ones, so that it is about their mixture."""
        return self in (BoundKind.TELESCOPED, BoundKind.MIXTURE)

    @property
    def unit(self) -> Literal["documents", "sequences"] | None:
        """What is taken as independent, "documents" or "sequences"; None for bounds over tokens, which need nothing."""
        if self in (BoundKind.DOCUMENTS, BoundKind.DOCUMENTS_BETTING):
            return "documents"
        return "sequences" if self in (BoundKind.SEQUENCES, BoundKind.SEQUENCES_BETTING) else None

    @property
    def by_token(self) -> bool:
        """Whether it bounds the average over this corpus's tokens, not the loss of a new document or sequence."""
        return self.unit is None

    @property
    def is_single(self) -> bool:
        """Whether it is a bound over tokens of one model by itself, which needs nothing but losses."""
        return self.by_token and not self.uses_chain

    @property
    def uses_lambda(self) -> bool:
        """Whether it bets, or weighs, with a parameter λ that it chooses from a priced grid."""
        return self not in (BoundKind.AZUMA, BoundKind.DOCUMENTS, BoundKind.SEQUENCES)

    @property
    def uses_centre(self) -> bool:
        """Whether it may subtract a predictable centre from a token's loss (docs/bounds.md, "Predictable centres")."""
        return self.is_single and self.uses_lambda

    @property
    def fits_subsets(self) -> bool:
        """Whether it can be stated for the tokens with one label: bounds with chains and over sequences cannot."""
        return self.is_single or self.unit == "documents"

    def allows(self, metric: Metric) -> bool:
        """Whether it can bound a metric: bounds with cheaper models are about losses in bits.

        Ranks under a mixture of models do not follow from each model's ranks.
        """
        return not (self.uses_chain and metric.is_error)
