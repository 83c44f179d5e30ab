"""Exact averages of every smoothing weight, lambda and centre from one pass (docs/bounds.md, "Numerics").

A token's centre is a multiple of the entropy of its prediction, which score files hold in steps of 1/8 bit. So tokens
are counted by entropy and by loss, in bins of 1/16 bit, and each pair keeps the sums of the losses' distances from the
middle of the bin, of their squares and of their cubes. From the third-order expansion around the middles follow all
averages, with a rest that is computed, too, and added on the safe side. The sums are integers: order and batches leave
no trace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.smoothing import check_alpha, smooth
from tokenbounds.certificates.averages.entropy_sums import UNIT, add_tokens
from tokenbounds.certificates.averages.histogram import CAP_BITS, ErrorCounts, Floats
from tokenbounds.errors import CertificateError, ScoreError
from tokenbounds.scores.entropies import ENTROPY_STEP_BITS, entropy_levels

BINS_PER_BIT = 16
MOST_TOKENS = 1 << 38  # keeps every integer sum below 2^63: distances, squares and cubes have at most 2^24 units
# Bin b holds losses in (b, b + 1] / BINS_PER_BIT, the first one 0, too, and the last one those that count as infinite.
_BINS = CAP_BITS * BINS_PER_BIT + 1
_INFINITE = _BINS - 1
# What rounding to 2^-25 of a unit may cost: 2^-26 x (h |f'| + h^2 |f''| / 2 + h^3 |f'''| / 6), h = 1/16, is below this.
ROUNDING = 2.0**-29


class EntropyMoments:
    """Counts and moments of raw losses by entropy (docs/bounds.md, "Numerics"); see the module.

    Parameters
    ----------
    vocabulary_size
        V.
    top_k
        The k whose errors (rank > k) are counted.
    """

    def __init__(self, vocabulary_size: int, top_k: tuple[int, ...] = ()) -> None:
        self.vocabulary_size = vocabulary_size
        self.errors = ErrorCounts(vocabulary_size, top_k)
        self.tokens = 0
        self._levels = entropy_levels(vocabulary_size)
        self._wrong = np.zeros((len(top_k), self._levels), dtype=np.int64)  # tokens whose rank exceeds each k, by level
        # Of each pair of a level and a bin the number of tokens, and the sums of d, d^2 and d^3, d = the bin's middle
        # minus the loss, in units of a bin: integers, in multiples of 2^-25.
        self._cells = np.zeros((self._levels, _BINS, 4), dtype=np.int64)

    def update(self, nll_bits: npt.ArrayLike, entropy_bits: npt.ArrayLike, rank: npt.ArrayLike | None = None) -> None:
        """Add scored tokens.

        Parameters
        ----------
        nll_bits, entropy_bits
            Raw losses and entropies [n], bits; a loss may be infinite.
        rank
            Rank of the true token [n], from 1; needed if there are `top_k`.

        Raises
        ------
        ScoreError
            If a loss, an entropy or a rank is impossible.
        """
        losses, entropies = np.asarray(nll_bits), np.asarray(entropy_bits)
        if losses.shape != entropies.shape or losses.ndim != 1:
            raise ScoreError("every token needs a loss and an entropy; score the tokens again.")
        self.errors.add(rank, losses.size)
        ranks = np.empty(0, np.int32) if rank is None else np.asarray(rank)
        ks = np.array(self.errors.top_k, dtype=np.int64)
        scales = (float(BINS_PER_BIT), 1.0 / ENTROPY_STEP_BITS)
        if not add_tokens(losses, entropies, ranks, ks, scales, self._cells, self._wrong):
            raise ScoreError("a loss or an entropy is impossible; score the tokens again.")
        self.tokens += losses.size
        if self.tokens > MOST_TOKENS:
            raise CertificateError(f"more than {MOST_TOKENS} tokens; score a sample of the corpus.")

    def merge(self, other: EntropyMoments) -> None:
        """Add another part of the same stream."""
        self.errors.merge(other.errors)
        self._wrong += other._wrong
        self.tokens += other.tokens
        self._cells += other._cells

    def error_rate(self, k: int) -> float:
        """Share of tokens whose rank exceeds `k`."""
        return self.errors.rate(k)

    def errors_by_entropy(self, k: int) -> tuple[Floats, Floats, Floats]:
        """Entropies that may occur, bits; how many tokens of each are wrong with k guesses; how many there are."""
        tokens = self._cells[..., 0].sum(axis=1).astype(np.float64)
        wrong = self._wrong[self.errors.top_k.index(k)].astype(np.float64)
        entropies = np.arange(self._levels, dtype=np.float64) * ENTROPY_STEP_BITS
        return entropies, wrong, tokens

    def mean_entropy(self) -> float:
        """Average entropy, bits; exact except in the last place, because entropies are multiples of 1/8."""
        by_level = self._cells[..., 0].sum(axis=1)
        return float(by_level @ np.arange(self._levels)) * ENTROPY_STEP_BITS / self._whole()

    def exact_mean_loss(self, alpha: float) -> float:
        """Average smoothed loss, bits; never below the exact one, and above it by less than 2^-21."""
        terms = self._expand(alpha)
        total = terms.counts @ terms.loss
        total += terms.first @ terms.slope + terms.second @ terms.bend + terms.third @ terms.twist
        # |g''''| <= (ln 2)^2 |g''|, and within half a bin g'' grows by at most 3 %.
        curved = float(terms.counts @ np.abs(terms.bend))
        rest = 1.03 * math.log(2.0) ** 2 / 24.0 * (0.5 / BINS_PER_BIT) ** 4 * curved
        return (float(total) + rest) / self._whole() + ROUNDING

    def exact_mean_logs(self, alpha: float, lambdas: npt.ArrayLike, kappa: float = 0.0) -> Floats:
        """Averages of ln(1 - lambda x (smoothed loss - kappa x entropy)) for each lambda [k], nats.

        Never above the exact ones, and below them by less than 2^-21.
        """
        terms, ln2 = self._expand(alpha), math.log(2.0)
        centred = terms.loss - kappa * terms.entropy  # [b]
        flat = 1.0 - terms.slope
        # With g the smoothed loss, s = g' its slope, u = lambda / (1 - lambda (g - c)) and w = u s: f' = -w,
        # f'' = ln2 (1 - s) w - w^2 and f''' = -ln2^2 (1 - s)(1 - 2 s) w + 3 ln2 (1 - s) w^2 - 2 w^3. By powers of w:
        first = -terms.first + ln2 * flat * terms.second - ln2**2 * flat * (1.0 - 2.0 * terms.slope) * terms.third
        squared = -terms.second + 3.0 * ln2 * flat * terms.third
        cubed = -2.0 * terms.third
        # |f''''| <= (1 - s) (ln2^3 w + 7 ln2^2 w^2 + 12 ln2 w^3) + 6 w^4, and within half a bin w grows by at most 5 %
        # and 1 - s by 3 %.
        share = 1.25 / 24.0 * (0.5 / BINS_PER_BIT) ** 4 * terms.counts
        first -= ln2**3 * flat * share
        squared -= 7.0 * ln2**2 * flat * share
        cubed -= 12.0 * ln2 * flat * share
        found = np.empty(np.size(lambdas))
        for index, lambda_ in enumerate(np.asarray(lambdas, dtype=np.float64)):
            left = 1.0 - lambda_ * centred  # [b], positive
            w = lambda_ * terms.slope / left
            powers = ((-6.0 * share * w + cubed) * w + squared) * w + first  # [b]
            found[index] = (terms.counts @ np.log(left) + powers @ w) / self._whole() - ROUNDING
        return found

    def _whole(self) -> int:
        if self.tokens == 0:
            raise CertificateError("no losses were given; a bound needs at least one scored token.")
        return self.tokens

    def _expand(self, alpha: float) -> _Expansion:
        check_alpha(alpha)
        self._whole()
        level, place = np.nonzero(self._cells[..., 0])  # [b] each
        counts, *sums = self._cells[level, place].T  # [b] each
        middles = (place + 0.5) / BINS_PER_BIT  # [b], bits
        middles[place == _INFINITE] = np.inf
        step = 1.0 / BINS_PER_BIT
        # d is the middle minus the loss, so odd powers change their sign; infinite losses have no distance.
        moments = np.array(sums) / UNIT * (place != _INFINITE)
        first, second, third = -step * moments[0], step**2 / 2.0 * moments[1], -(step**3) / 6.0 * moments[2]
        likely = (1.0 - alpha) * np.exp2(-middles)
        slope = likely / (likely + alpha / self.vocabulary_size)
        ln2 = math.log(2.0)
        return _Expansion(
            counts=counts.astype(np.float64),
            entropy=level.astype(np.float64) * ENTROPY_STEP_BITS,
            first=first,
            second=second,
            third=third,
            loss=smooth(middles, alpha, self.vocabulary_size),
            slope=slope,
            bend=-ln2 * slope * (1.0 - slope),
            twist=ln2**2 * slope * (1.0 - slope) * (1.0 - 2.0 * slope),
        )


@dataclass(frozen=True)
class _Expansion:
    """The smoothed loss around the middles of the pairs in use; every array is [b]."""

    counts: Floats  # tokens
    entropy: Floats  # bits
    first: Floats  # sum of (loss - middle), bits
    second: Floats  # half the sum of (loss - middle)^2, bits^2
    third: Floats  # a sixth of the sum of (loss - middle)^3, bits^3
    loss: Floats  # smoothed loss at the middle, bits, and its three derivatives by the raw loss
    slope: Floats
    bend: Floats
    twist: Floats
