"""Exact averages of every smoothing weight and lambda from one pass (docs/bounds.md, "Numerics").

A histogram of raw losses in bins of 2^-12 bit that also keeps, for each bin, the sum of the losses' distances from its
centre and of their squares. Both summands of a certificate, the smoothed loss and ln(1 - lambda x smoothed loss), are
smooth functions of the raw loss, and the second-order expansion around the centres gives their averages to within
2^-37. That error is added on the safe side. The sums are integers, so order and batches do not affect them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.smoothing import TokenAlphas, check_alpha, loss_range, smooth
from tokenbounds.certificates.averages.histogram import BINS_PER_BIT, INFINITE_BIN, Floats, LossHistogram
from tokenbounds.errors import CertificateError

ROUNDING = 2.0**-37  # bounds the error of the expansion and of rounding the distances together
MOST_TOKENS = 1 << 38  # keeps every integer sum below 2^63: distances have at most 2^24 units, squares 2^18
# Distances are multiples of 2^-25 of a bin, at most 1/2; squares of 2^-20, at most 1/4. So sums of 2^26 of them are
# below 2^53 units, and float64 adds them without rounding, in any order.
_MOST_PENDING = 1 << 26
_DISTANCE_UNIT = 2.0**25
_SQUARE_UNIT = 2.0**20
# Adding a number whose last bit is worth 2^-20 (float32) or 2^-25 (float64) and subtracting it again rounds to that.
_ROUND_SQUARE = np.float32(8.0)
_ROUND_DISTANCE = 1.5 * 2.0**27


class LossMoments(LossHistogram):
    """A histogram of unweighted losses that can give averages almost exactly; see the module.

    See docs/bounds.md, "Numerics".

    Parameters are those of `LossHistogram`.
    """

    def __init__(self, vocabulary_size: int, top_k: tuple[int, ...] = ()) -> None:
        super().__init__(vocabulary_size, top_k)
        # Sums over each bin's losses of d and of d^2, d = the bin's centre minus the loss: integers, in their units.
        self._distances = np.zeros(INFINITE_BIN + 1, dtype=np.int64)
        self._squares = np.zeros(INFINITE_BIN + 1, dtype=np.int64)
        # The same of the last tokens, in units of a bin, as float64, which adds faster and is exact for so few.
        self._pending = 0
        self._pending_sums = np.zeros((2, INFINITE_BIN + 1))

    def _add(self, scaled: npt.NDArray[np.floating], bins: npt.NDArray[np.int64], mass: Floats | None) -> None:
        if mass is not None:
            raise CertificateError("weighted losses have no exact moments; use LossHistogram.")
        super()._add(scaled, bins, None)
        distance = _distances(scaled)  # float32 [n]
        squares = (distance * distance + _ROUND_SQUARE) - _ROUND_SQUARE  # float32 [n], rounded to 2^-20
        for sums, values in zip(self._pending_sums, (distance, squares), strict=True):
            np.add.at(sums, bins, values.astype(np.float64))
        self._pending += bins.size
        if self._pending > _MOST_PENDING:
            self._settle()

    def _settle(self) -> None:
        """Move the pending sums, which are still exact in float64, to integers."""
        if self.tokens > MOST_TOKENS:
            raise CertificateError(f"more than {MOST_TOKENS} tokens; score a sample of the corpus.")
        self._distances += (self._pending_sums[0] * _DISTANCE_UNIT).astype(np.int64)
        self._squares += (self._pending_sums[1] * _SQUARE_UNIT).astype(np.int64)
        self._pending_sums[:] = 0.0
        self._pending = 0

    def merge(self, other: LossHistogram) -> None:
        """Add the counts and moments of another part of the same stream."""
        if not isinstance(other, LossMoments):
            raise CertificateError("a histogram without moments cannot be merged into one with them.")
        super().merge(other)
        other._settle()
        self._settle()
        self._distances += other._distances
        self._squares += other._squares

    def exact_mean_loss(self, alpha: float) -> float:
        """Average smoothed loss, bits; at most 2^-36 above the exact one and never below it."""
        terms = self._expand(alpha)
        return terms.average(terms.loss, terms.slope, terms.bend) + ROUNDING

    def exact_mean_logs(self, alpha: float, lambdas: npt.ArrayLike) -> Floats:
        """Averages of ln(1 - lambda x smoothed loss) for each lambda [k], nats; at most 2^-36 below the exact ones."""
        terms = self._expand(alpha)
        means = np.empty(np.size(lambdas))
        for index, lambda_ in enumerate(np.asarray(lambdas, dtype=np.float64)):
            # f = ln(1 - lambda g) of the smoothed loss g has, with u = lambda / (1 - lambda g), f' = -u g' and
            # f'' = -u g'' - (u g')^2.
            steep = lambda_ / (1.0 - lambda_ * terms.loss)
            bend = -steep * terms.bend - (steep * terms.slope) ** 2
            means[index] = terms.average(np.log1p(-lambda_ * terms.loss), -steep * terms.slope, bend) - ROUNDING
        return means

    def _expand(self, alpha: float) -> _Expansion:
        """The smoothed loss around the centres of the bins in use [b]."""
        check_alpha(alpha)
        self._settle()
        used = np.flatnonzero(self.counts)  # [b]
        if used.size == 0:
            raise CertificateError("no losses were given; a bound needs at least one scored token.")
        centres = (used - 0.5) / BINS_PER_BIT
        # The first bin holds losses of exactly 0, and the last one holds infinity: nothing to expand.
        single = (used == 0) | (used == INFINITE_BIN)
        centres[single] = np.where(used[single] == 0, 0.0, np.inf)
        # In bits: sums of (loss - centre), which is -d, and of its square.
        first = np.where(single, 0.0, -self._distances[used] / (_DISTANCE_UNIT * BINS_PER_BIT))
        second = np.where(single, 0.0, self._squares[used] / (_SQUARE_UNIT * BINS_PER_BIT**2))
        # g(x) = -log2((1 - alpha) 2^-x + alpha / V) has g' = s, the model's share of that probability, and
        # g'' = -ln 2 · s (1 - s).
        probability = (1.0 - alpha) * np.exp2(-centres)
        share = probability / (probability + alpha / self.vocabulary_size)
        return _Expansion(
            counts=self.counts[used],
            first=first,
            half_second=0.5 * second,
            loss=smooth(centres, alpha, self.vocabulary_size),
            slope=share,
            bend=-np.log(2.0) * share * (1.0 - share),
        )


class AlphaMoments:
    """Moments of tokens that differ in their smoothing weight: one `LossMoments` for each weight.

    Parameters
    ----------
    vocabulary_size, top_k
        As for `LossMoments`.
    alphas
        The weights that tokens have.
    """

    def __init__(self, vocabulary_size: int, top_k: tuple[int, ...], alphas: TokenAlphas) -> None:
        self.alphas = alphas
        self.parts = [LossMoments(vocabulary_size, top_k) for _ in alphas.grid]

    def update(self, nll_bits: npt.ArrayLike, alpha: npt.ArrayLike, rank: npt.ArrayLike | None = None) -> None:
        """Add tokens [n]: raw loss in bits, smoothing weight, rank if there are top_k."""
        losses, index = np.asarray(nll_bits), self.alphas.index(alpha)  # [n], [n]: which of the weights
        ranks = None if rank is None else np.asarray(rank)
        for position, moments in enumerate(self.parts):
            chosen = np.flatnonzero(index == position)
            if chosen.size:
                moments.update(losses[chosen], None if ranks is None else ranks[chosen])

    def merge(self, other: AlphaMoments) -> None:
        """Add another part of the same stream."""
        for ours, theirs in zip(self.parts, other.parts, strict=True):
            ours.merge(theirs)

    def whole(self) -> LossMoments:
        """Moments of all tokens, whatever their weight."""
        whole = LossMoments(self.parts[0].vocabulary_size, self.parts[0].errors.top_k)
        for part in self.parts:
            whole.merge(part)
        return whole

    def exact_mean_loss(self) -> float:
        """Average loss under each token's own weight, as `LossMoments.exact_mean_loss`."""
        return self._average([part.exact_mean_loss(alpha) for part, alpha in self._used()])

    def exact_mean_logs(self, lambdas: npt.ArrayLike) -> Floats:
        """Averages of ln(1 - lambda x loss) under each token's own weight, as `LossMoments.exact_mean_logs`."""
        means = [part.exact_mean_logs(alpha, lambdas) for part, alpha in self._used()]
        return np.array([self._average(list(column)) for column in zip(*means, strict=True)])

    def mean_square_range(self) -> float:
        """Average square of the width of each token's interval of losses, bits²."""
        return self._average([float(loss_range(alpha, part.vocabulary_size)) ** 2 for part, alpha in self._used()])

    def _used(self) -> list[tuple[LossMoments, float]]:
        pairs = [pair for pair in zip(self.parts, self.alphas.grid, strict=True) if pair[0].tokens]
        if not pairs:
            raise CertificateError("no losses were given; a bound needs at least one scored token.")
        return pairs

    def _average(self, values: list[float]) -> float:
        counts = [part.tokens for part, _ in self._used()]
        return math.fsum(count * value for count, value in zip(counts, values, strict=True)) / sum(counts)


@dataclass(frozen=True)
class _Expansion:
    """The smoothed loss around the centres of the bins in use; every array is [b]."""

    counts: Floats  # losses in the bin
    first: Floats  # sum of (loss - centre), bits
    half_second: Floats  # half the sum of (loss - centre)^2, bits^2
    loss: Floats  # smoothed loss at the centre, bits, and its two derivatives with respect to the raw loss
    slope: Floats
    bend: Floats

    def average(self, value: Floats, slope: Floats, bend: Floats) -> float:
        """Average over all losses of a function, from its value and two derivatives at the centres [b]."""
        return float(np.sum(self.counts * value + self.first * slope + self.half_second * bend) / np.sum(self.counts))


def _distances(scaled: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Centre of the bin minus the loss, in units of a bin: -1/2 to 1/2, in multiples of 2^-25.

    For float32 input the difference is such a multiple by itself; float64 is rounded.
    """
    # Losses beyond the last bin count as infinite: their distance is not used.
    inside = np.minimum(scaled, np.float32(INFINITE_BIN))
    distance = np.ceil(inside)
    distance -= inside.dtype.type(0.5)
    distance -= inside
    if distance.dtype == np.float32:
        return distance
    return ((distance + _ROUND_DISTANCE) - _ROUND_DISTANCE).astype(np.float32)
