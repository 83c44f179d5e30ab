"""Bounds on the mean of the whole corpus from a random sample of blocks (docs/bounds.md, "Sampling").

A draw is a uniform token index, with replacement; its value is the average over the block that holds it. Draws are
i.i.d. given corpus and model, and their expectation is the average over all tokens. The statements here are about the
draw alone: they hold for every corpus and every model chosen without looking at the draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.betting import lambda_fractions
from tokenbounds.errors import CertificateError

Floats = npt.NDArray[np.float64]

_PORTFOLIO = 64
PILOT_SHARE = 0.1  # of the draws chooses what the others bound
_BISECTIONS = 50
_ROUNDING = 2.0**-40  # of the range: block averages are rounded sums
_FACTORS = 16
_COLUMNS = 1 << 11


def upper_mean(values: npt.ArrayLike, low: float, high: float, delta: float, nats: float = 0.0) -> float:
    """Upper confidence bound on the expectation of i.i.d. values in [low, high], at level 1 - delta.

    The average wealth of a fixed portfolio of bets against each mean (Waudby-Smith & Ramdas 2024, theorem 3 and section
    4; Orabona & Jun 2024); see docs/bounds.md, "Sampling".

    Parameters
    ----------
    values
        [n], one per draw (a block drawn twice appears twice), in any order.
    low, high
        Interval, fixed before the draw, that holds every value.
    delta
        Failure probability of this one statement.
    nats
        Price of what was chosen with the values in view: of a model, its message's bits times ln 2.

    Raises
    ------
    CertificateError
        If a value is outside the interval or an argument is out of its domain.
    """
    scaled = _scale(values, low, high)
    if not 0.0 < delta < 1.0:
        raise CertificateError(f"a failure probability of {delta}; it lies strictly between 0 and 1.")
    return low + (high - low) * min(1.0, _smallest_refuted(scaled, delta, nats) + _ROUNDING)


def lower_mean(values: npt.ArrayLike, low: float, high: float, delta: float, nats: float = 0.0) -> float:
    """Lower confidence bound: `upper_mean` of the negated values (docs/bounds.md, "Sampling")."""
    return -upper_mean(-np.asarray(values, dtype=np.float64), -high, -low, delta, nats)


def _scale(values: npt.ArrayLike, low: float, high: float) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise CertificateError("no draws were given; a sample needs at least one.")
    if not high > low:
        raise CertificateError(f"[{low}, {high}] is not an interval.")
    scaled = (array - low) / (high - low)
    if not (scaled.min() >= -1e-9 and scaled.max() <= 1.0 + 1e-9):
        raise CertificateError(f"a draw is outside [{low}, {high}], the interval that the sampling bound assumes.")
    return np.clip(scaled, 0.0, 1.0)


def _smallest_refuted(values: Floats, delta: float, nats: float) -> float:
    """The smallest mean in [0, 1], rounded up, at which the wealth, increasing in the mean, reaches e^nats / delta."""
    bets = lambda_fractions(_PORTFOLIO)  # [k]
    won = sum_logs(values, bets, np.zeros(1, dtype=np.int64))[:, 0]  # sum over draws of ln(1 - bet x value) [k]

    # A sum of n logarithms by runs of sixteen is off by at most n / 16 + 64 units in the last place of its size.
    doubt = (values.size / _FACTORS + 64) * np.finfo(np.float64).eps

    def log_wealths(mean: float) -> Floats:
        paid = values.size * np.log1p(-bets * mean)
        logs: Floats = won - paid - doubt * (np.abs(won) + np.abs(paid))
        return logs

    return first_refuted(log_wealths, float(values.mean()), delta, nats, _BISECTIONS)


def first_refuted(
    log_wealths: Callable[[float], Floats], below: float, delta: float, nats: float, bisections: int
) -> float:
    """The smallest value up to 1, rounded up, at which the average wealth of a portfolio reaches e^nats / delta.

    See docs/bounds.md, "Sampling".

    Parameters
    ----------
    log_wealths
        For a value the log-wealth of each bet against it [k], nats; their average is increasing in the value.
    below
        A value that the portfolio does not refute, such as the plain estimate.
    delta
        Failure probability.
    nats
        Price of what was chosen with the sample in view.
    bisections
        The answer is at most (1 - below) / 2^bisections too large.
    """
    low, high, target = below, 1.0, nats - math.log(delta)
    for _ in range(bisections):
        middle = 0.5 * (low + high)
        logs = log_wealths(middle)
        largest = float(logs.max())
        if largest + math.log(float(np.exp(logs - largest).mean())) >= target:
            high = middle
        else:
            low = middle
    return high


def sum_logs(values: Floats, bets: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    """Sums of ln(1 - bet x value) over runs of values, for each bet; every bet x value is at most 0.995.

    Sixteen factors at a time are multiplied before a logarithm is taken; runs are padded with zeros for that.

    Parameters
    ----------
    values
        [n], n >= 1.
    bets
        [k].
    starts
        Where each run begins [r]: strictly increasing, the first is 0.

    Returns
    -------
    float64 [k, r], nats.
    """
    lengths = np.diff(starts, append=len(values))
    filled = -(-lengths // _FACTORS) * _FACTORS
    begins = np.cumsum(filled) - filled
    padded = np.zeros(int(filled.sum()))
    padded[np.arange(len(values)) + np.repeat(begins - starts, lengths)] = values
    columns = padded.reshape(-1, _FACTORS).T
    logs = np.empty((len(bets), columns.shape[1]))
    for first in range(0, columns.shape[1], _COLUMNS):
        part = slice(first, first + _COLUMNS)
        product = np.ones_like(logs[:, part])
        for column in columns[:, part]:
            product *= 1.0 - bets[:, None] * column
        logs[:, part] = np.log(product)
    sums: Floats = np.add.reduceat(logs, begins // _FACTORS, axis=1)
    return sums


def pilot_draws(draws: int) -> int:
    """How many of the first draws choose what the others bound (docs/bounds.md, "Choosing on a pilot").

    A tenth of them, one at least; none of a single one.
    """
    return max(int(PILOT_SHARE * draws), min(1, draws - 1))


def draw_order(draws: npt.ArrayLike, seed: int) -> npt.NDArray[np.int64]:
    """Indices of the blocks, each as often as it was drawn, in a seeded random order (docs/bounds.md, "Sampling").

    The plan stores how often each block was drawn, not when. I.i.d. draws are exchangeable: given the multiset every
    order is equally likely, so an order drawn afresh, without looking at the losses, has the law of the true one.

    Parameters
    ----------
    draws
        How often each block was drawn [blocks].
    seed
        The plan's seed; a stream of its own is derived from it.

    Returns
    -------
    int64 [sum of draws], indices into `draws`.
    """
    repeats = np.asarray(draws, dtype=np.int64)
    if repeats.size and repeats.min() < 0:
        raise CertificateError("a block was drawn a negative number of times.")
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 0x6F72646572])))
    return generator.permutation(np.repeat(np.arange(repeats.size), repeats))


class BlockSums:
    """Averages over blocks, from a stream of rows in any order.

    Parameters
    ----------
    blocks
        Identifiers of the blocks [blocks], int64, distinct.
    """

    def __init__(self, blocks: npt.ArrayLike) -> None:
        identifiers = np.asarray(blocks, dtype=np.int64)
        self._order = np.argsort(identifiers, kind="stable")
        self._sorted = identifiers[self._order]
        if self._sorted.size and np.any(self._sorted[1:] == self._sorted[:-1]):
            raise CertificateError("a block appears twice in the plan; make the plan again.")
        self._sums = np.zeros(identifiers.size)
        self._counts = np.zeros(identifiers.size, dtype=np.int64)

    def add(self, blocks: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Add rows: the block of each [n] and its value [n]."""
        identifiers = np.asarray(blocks, dtype=np.int64)
        place = np.searchsorted(self._sorted, identifiers)
        if np.any(place >= self._sorted.size) or np.any(self._sorted[place] != identifiers):
            raise CertificateError("a scored row belongs to no block of the plan.")
        index = self._order[place]
        size = self._sums.size
        self._sums += np.bincount(index, weights=np.asarray(values, dtype=np.float64), minlength=size)
        self._counts += np.bincount(index, minlength=size)

    def means(self) -> Floats:
        """Average of each block [blocks], in the order given."""
        if np.any(self._counts == 0):
            raise CertificateError("a block of the plan has no scored row; score it again.")
        return self._sums / self._counts


def draws_for_width(deviation: float, value_range: float, width: float, delta: float) -> int:
    """Number of draws for which the upper bound is about `width` above the mean (a plan, not a statement).

    See docs/bounds.md, "Sampling".

    Parameters
    ----------
    deviation
        Guessed standard deviation of block averages; same unit as `value_range` and `width`.
    value_range
        Width of the interval that holds them.
    width
        Wanted distance between the bound and the mean.
    delta
        Failure probability of the statement.
    """
    if not (width > 0 and value_range > 0 and deviation >= 0):
        raise CertificateError("the wanted width and the range must be positive, the deviation not negative.")
    log = math.log(1.0 / delta) + 0.5 * math.log(_PORTFOLIO)
    return math.ceil(2.0 * log * (deviation / width) ** 2 + 2.0 * log * value_range / (3.0 * width))


def width_of_draws(deviation: float, value_range: float, draws: int, delta: float) -> float:
    """The width that `draws_for_width` would ask this many draws for: its inverse, in the values' unit."""
    log = math.log(1.0 / delta) + 0.5 * math.log(_PORTFOLIO)
    linear = 2.0 * log * value_range / 3.0
    return (linear + math.sqrt(linear**2 + 8.0 * draws * log * deviation**2)) / (2.0 * draws)
