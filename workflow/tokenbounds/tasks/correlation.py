"""Spearman's correlation with a bootstrap interval, for one antibody's variants, never pooled over several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

_CONFIDENCE = 0.95
FEWEST = 3
_BLOCK_CELLS = 1 << 21


@dataclass(frozen=True)
class Correlation:
    """A rank correlation; NaN throughout where it is not defined.

    Attributes
    ----------
    value
        Spearman's coefficient, ties by their average rank.
    low, high
        Percentile bootstrap interval at 95 %.
    """

    value: float
    low: float
    high: float


def correlate(predicted: npt.ArrayLike, measured: npt.ArrayLike, *, resamples: int, seed: int) -> Correlation:
    """Correlate the ranks of two lists.

    Parameters
    ----------
    predicted, measured
        Values [n], in the direction in which both should grow.
    resamples
        Number of bootstrap samples: n pairs each, drawn with replacement. Samples in which one list is constant have
        no correlation and are left out.
    seed
        Of the draws.

    Returns
    -------
    Correlation
        NaN for fewer than `FEWEST` pairs, or if one list is constant.
    """
    first, second = (np.asarray(values, dtype=np.float64) for values in (predicted, measured))
    if len(first) < FEWEST or _is_constant(first) or _is_constant(second):
        return Correlation(math.nan, math.nan, math.nan)
    value = float(_rank_correlations(first[None], second[None])[0])
    resampled = _resample(first, second, resamples, np.random.default_rng(seed))
    resampled = resampled[~np.isnan(resampled)]
    if not len(resampled):
        return Correlation(value, math.nan, math.nan)
    tail = (1.0 - _CONFIDENCE) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return Correlation(value, float(low), float(high))


def _resample(first: Floats, second: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    size = len(first)
    block = max(1, _BLOCK_CELLS // size)
    found = []
    for start in range(0, resamples, block):
        rows = generator.integers(0, size, (min(block, resamples - start), size))
        found.append(_rank_correlations(first[rows], second[rows]))
    return np.concatenate(found)


def _rank_correlations(first: Floats, second: Floats) -> Floats:
    """Spearman's coefficient of each pair of rows [k, n]; NaN where a row is constant."""
    ranks = [stats.rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (first, second)]
    product = (ranks[0] * ranks[1]).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = product / np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    return found


def _is_constant(values: Floats) -> bool:
    return bool(values.min() == values.max())
