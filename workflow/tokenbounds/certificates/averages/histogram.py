"""One streaming pass over token losses: a fine histogram of raw losses, and error counts.

Raw losses are rounded **up** to a multiple of 2^-12 bit, and losses above 64 bits to infinity. Every bound is
non-decreasing in the loss, so a bound computed from the histogram is valid, and within 2^-12 bit of the exact one
for every smoothing weight and lambda. `moments.LossMoments` adds what makes averages exact.

Memory is a few megabytes, whatever the number of tokens. Results do not depend on the order of the rows or on how
they are cut into batches: counts are integers and exact sums are kept in fixed point.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.smoothing import check_alpha, smooth
from tokenbounds.errors import CertificateError, ScoreError

Floats = npt.NDArray[np.float64]

BINS_PER_BIT = 4096
CAP_BITS = 64
# Bin b holds losses in ((b - 1) / BINS_PER_BIT, b / BINS_PER_BIT]; bin 0 holds 0, and the last one infinity.
INFINITE_BIN = CAP_BITS * BINS_PER_BIT + 1
_ROWS = 1 << 16  # rows at once: temporaries of a part stay in the processor's cache
_FIXED_POINT = 2.0**40


class ErrorCounts:
    """How many tokens have a rank above each k.

    Parameters
    ----------
    vocabulary_size
        V.
    top_k
        The k.
    """

    def __init__(self, vocabulary_size: int, top_k: Sequence[int]) -> None:
        if vocabulary_size < 2:
            raise CertificateError(f"a vocabulary of {vocabulary_size} tokens; a bound needs at least two.")
        self.vocabulary_size = vocabulary_size
        self.top_k = tuple(top_k)
        self.weight = 0.0  # of all tokens
        self._wrong = np.zeros(len(self.top_k))  # weight of the tokens whose rank exceeds each k

    def add(self, rank: npt.ArrayLike | None, size: int, mass: Floats | None = None) -> None:
        """Add tokens with these ranks [n], from 1, and weights [n], one each by default.

        Raises
        ------
        ScoreError
            If there are k but not `size` ranks, or one is impossible.
        """
        self.weight += size if mass is None else float(mass.sum())
        if not self.top_k:
            return
        ranks = np.asarray(rank)
        if rank is None or ranks.shape != (size,):
            raise ScoreError("the ranks are missing or not as many as the losses; score the tokens again.")
        if size and not (ranks.min() >= 1 and ranks.max() <= self.vocabulary_size):
            raise ScoreError(f"a rank lies outside 1..{self.vocabulary_size}; score the tokens again.")
        for start in range(0, size, _ROWS):
            part = slice(start, start + _ROWS)
            for index, k in enumerate(self.top_k):
                wrong = ranks[part] > k  # [n]
                self._wrong[index] += np.count_nonzero(wrong) if mass is None else mass[part][wrong].sum()

    def merge(self, other: ErrorCounts) -> None:
        """Add the counts of another part of the same stream."""
        if (self.vocabulary_size, self.top_k) != (other.vocabulary_size, other.top_k):
            raise CertificateError("histograms of different vocabularies or top-k lists cannot be merged.")
        self.weight += other.weight
        self._wrong += other._wrong

    def rate(self, k: int) -> float:
        """Weighted share of tokens whose rank exceeds `k`."""
        return float(self._wrong[self.top_k.index(k)] / self.weight)


class LossHistogram:
    """Counts of raw losses in bins of 2^-12 bit, and of ranks above each k (docs/bounds.md, "Numerics").

    Parameters
    ----------
    vocabulary_size
        V.
    top_k
        The k whose errors (rank > k) are counted.
    """

    def __init__(self, vocabulary_size: int, top_k: Sequence[int] = ()) -> None:
        self.vocabulary_size = vocabulary_size
        self.errors = ErrorCounts(vocabulary_size, top_k)
        self.tokens = 0
        self.counts = np.zeros(INFINITE_BIN + 1)  # weight of the losses in each bin; integers unless there are weights

    def update(
        self, nll_bits: npt.ArrayLike, rank: npt.ArrayLike | None = None, weights: npt.ArrayLike | None = None
    ) -> None:
        """Add scored tokens.

        Parameters
        ----------
        nll_bits
            Raw losses [n], bits; infinity is allowed, NaN and negative values are not.
        rank
            Rank of the true token [n], from 1; needed if `top_k` is not empty.
        weights
            Weight of each row [n]; one each by default. A sample weighs a row by draws / length of its block.

        Raises
        ------
        ScoreError
            If a loss or a rank is impossible.
        """
        losses = np.asarray(nll_bits)
        mass = None if weights is None else np.asarray(weights, dtype=np.float64)
        self.errors.add(rank, losses.size, mass)
        for start in range(0, losses.size, _ROWS):
            part = slice(start, start + _ROWS)
            each = None if mass is None else mass[part]
            # A power of two, so float32 losses stay exact; what overflows is infinite, as anything above 64 bits is.
            with np.errstate(over="ignore"):
                scaled = losses[part] * np.float32(BINS_PER_BIT)  # [n], in units of a bin
            bins = np.ceil(scaled)
            if bins.size and not bins.min() >= 0:  # NaN fails the comparison too
                raise ScoreError("a loss is negative or not a number; score the tokens again.")
            self._add(scaled, np.minimum(bins, np.float32(INFINITE_BIN)).astype(np.int64), each)
            self.tokens += scaled.size

    def _add(self, scaled: npt.NDArray[np.floating], bins: npt.NDArray[np.int64], mass: Floats | None) -> None:
        """Count losses [n], in units of a bin, in their bins [n], each with its mass [n]."""
        # Unlike bincount, add.at makes no array of all bins for each part of the stream.
        np.add.at(self.counts, bins, 1.0 if mass is None else mass)

    def merge(self, other: LossHistogram) -> None:
        """Add the counts of another part of the same stream."""
        self.errors.merge(other.errors)
        self.tokens += other.tokens
        self.counts += other.counts

    @property
    def weight(self) -> float:
        """Sum of the weights: the number of tokens if all weigh one."""
        return float(self.counts.sum())

    def error_rate(self, k: int) -> float:
        """Weighted share of tokens whose rank exceeds `k`."""
        return self.errors.rate(k)

    def losses(self, alpha: float) -> tuple[Floats, Floats]:
        """Smoothed losses of the bins in use, rounded up (bits), and their weights."""
        check_alpha(alpha)
        used = np.flatnonzero(self.counts)
        edges = used / BINS_PER_BIT  # the upper end of each bin in use, bits
        edges[used == INFINITE_BIN] = np.inf
        return smooth(edges, alpha, self.vocabulary_size), self.counts[used]


class FixedPointSum:
    """A sum whose result does not depend on the order or grouping of its terms: integers in units of 2^-40.

    See docs/bounds.md, "Numerics".
    """

    def __init__(self) -> None:
        self._units = 0
        self.count = 0

    def add(self, values: Floats) -> None:
        """Add at most 2^15 values, each below 2^8 in absolute value."""
        # |sum| < 2^15 · 2^8 · 2^40 = 2^63, so int64 holds it; the total is one of Python's integers, without a limit.
        self._units += int(np.rint(values * _FIXED_POINT).astype(np.int64).sum())
        self.count += values.size

    def merge(self, other: FixedPointSum) -> None:
        """Add another sum."""
        self._units += other._units
        self.count += other.count

    @property
    def mean(self) -> float:
        """Average of the values added so far."""
        if self.count == 0:
            raise CertificateError("no losses were given; a bound needs at least one scored token.")
        return self._units / (self.count * int(_FIXED_POINT))
