"""Rate–distortion-optimised rounding: what codes cost in bits, and rounding that takes that cost into account.

A code costs about what the adaptive coder pays for it. The coder predicts magnitudes from those seen in the same row
and column; so does this model: every (row, column) has a band, by the logarithm of the magnitude expected there, and
every band has its own table of code lengths, learned from the codes of the previous round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenbounds.compiled import compiled

_BANDS = 80  # quarter octaves of the expected magnitude
_BAND_OF_ONE = 56  # the band of an expected magnitude of one
_MAGNITUDES = 64
_PRIOR_COUNT = 8.0  # how many codes the geometric prior of a band counts for
_SMOOTHING = 4.0  # how many codes the overall mean counts for in a row's or column's mean

_compiled: Any = compiled(error_model="numpy", nogil=True)


@dataclass(frozen=True)
class RateModel:
    """Code lengths by position and magnitude.

    Attributes
    ----------
    row_bands : int32 array [rows]
    column_bands : int32 array [columns]
        Their sum, kept in range, is the band of a position.
    lengths : float64 array [bands, magnitudes]
        Bits of a code of each magnitude, its sign included; greater ones are charged by their logarithm.
    """

    row_bands: np.ndarray
    column_bands: np.ndarray
    lengths: np.ndarray

    @classmethod
    def fit(cls, codes: np.ndarray, grids: int = 1) -> RateModel:
        """Learn from integer codes [rows, columns]; two grids, even and odd, have lengths of their own."""
        sums_of_rows, sums_of_columns = _magnitude_sums(codes)  # [rows], [columns]
        mean = max(float(sums_of_rows.sum()) / max(codes.size, 1), 1e-4)
        by_row = (sums_of_rows + _SMOOTHING * mean) / (codes.shape[1] + _SMOOTHING)
        by_column = (sums_of_columns + _SMOOTHING * mean) / (codes.shape[0] + _SMOOTHING)
        # The expected magnitude at a position is by_row · by_column / mean: the logarithm is a sum, in quarter octaves.
        row_bands = np.rint(4 * np.log2(by_row)).astype(np.int32) + np.int32(_BAND_OF_ONE)
        column_bands = np.rint(4 * np.log2(by_column / mean)).astype(np.int32)
        counts = _count(codes, row_bands, column_bands)
        return cls(row_bands, column_bands, _lengths(counts, grids))

    def bits(self, codes: np.ndarray) -> float:
        """What codes [rows, columns] cost in total."""
        return float(_total_bits(codes, self.row_bands, self.column_bands, self.lengths))

    def column_of_bands(self, column: int) -> np.ndarray:
        """The band of each position in a column, int64 [rows]."""
        bands = self.row_bands.astype(np.int64) + int(self.column_bands[column])
        return np.clip(bands, 0, len(self.lengths) - 1)

    def rows(self, here: slice) -> RateModel:
        """The model of some of the rows."""
        return RateModel(self.row_bands[here], self.column_bands, self.lengths)


def round_column(targets: np.ndarray, column: int, model: RateModel, rate_weight: float) -> np.ndarray:
    """Round a column's targets, in units of its steps, so that squared error + `rate_weight` × bits is least.

    Parameters
    ----------
    targets : float64 array [rows]
    column : int
        Which column of the matrix it is.
    model : RateModel
    rate_weight : float
        Squared steps a bit is worth. On the rate–distortion curve of fine uniform quantization, error = step²/12, and
        one bit less doubles the step: the slope is (2 ln 2)/12 ≈ 0.12.

    Returns
    -------
    int32 array [rows]
        Each the nearest integer, or one of the two next to it towards zero, or zero.
    """
    return _round_column(targets, model.row_bands, model.column_bands[column], model.lengths, rate_weight)


def _lengths(counts: np.ndarray, grids: int) -> np.ndarray:
    """Bits by band and magnitude from counts, with a geometric prior of each band's own mean."""
    expected = 2.0 ** ((np.arange(_BANDS) - _BAND_OF_ONE) / 4)
    ratio = (expected / (1 + expected))[:, None]  # [bands, 1], of the geometric law with this mean
    prior = ratio ** np.arange(_MAGNITUDES) + 1e-6
    prior[:, 0] *= 1 if grids == 1 else 0.5  # zero has no sign: it is half as frequent as magnitudes next to it
    lengths = np.empty_like(counts)
    for first in range(grids):
        grid = slice(first, None, grids)
        mass = counts[:, grid] + _PRIOR_COUNT * prior[:, grid] / prior[:, grid].sum(axis=1, keepdims=True)
        lengths[:, grid] = -np.log2(mass / mass.sum(axis=1, keepdims=True))
    lengths[:, 1:] += 1.0  # the sign
    return lengths


@_compiled
def _magnitude_sums(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = codes.shape
    by_row, by_column = np.zeros(rows), np.zeros(columns)
    for row in range(rows):
        for column in range(columns):
            magnitude = min(abs(codes[row, column]), 2 * _MAGNITUDES)
            by_row[row] += magnitude
            by_column[column] += magnitude
    return by_row, by_column


@_compiled
def _band(row_band: int, column_band: int) -> int:
    return min(max(row_band + column_band, 0), _BANDS - 1)


@_compiled
def _count(codes: np.ndarray, row_bands: np.ndarray, column_bands: np.ndarray) -> np.ndarray:
    counts = np.zeros((_BANDS, _MAGNITUDES))
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            band = _band(row_bands[row], column_bands[column])
            counts[band, min(abs(codes[row, column]), _MAGNITUDES - 1)] += 1
    return counts


@_compiled
def _length(lengths: np.ndarray, band: int, magnitude: int) -> float:
    last = lengths.shape[1] - 1
    if magnitude <= last:
        return lengths[band, magnitude]
    return lengths[band, last] + 2 * np.log2(magnitude - last + 1.0)


@_compiled
def _total_bits(codes: np.ndarray, row_bands: np.ndarray, column_bands: np.ndarray, lengths: np.ndarray) -> float:
    total = 0.0
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            total += _length(lengths, _band(row_bands[row], column_bands[column]), abs(codes[row, column]))
    return total


@_compiled
def _round_column(
    targets: np.ndarray, row_bands: np.ndarray, column_band: int, lengths: np.ndarray, rate_weight: float
) -> np.ndarray:
    codes = np.zeros(targets.size, dtype=np.int32)
    for row in range(targets.size):
        size = abs(targets[row])
        nearest = int(np.rint(size))
        if nearest == 0:
            continue
        band = _band(row_bands[row], column_band)
        best, least = 0, size * size + rate_weight * lengths[band, 0]
        for magnitude in range(max(nearest - 2, 1), nearest + 1):
            error = size - magnitude
            cost = error * error + rate_weight * _length(lengths, band, magnitude)
            if cost < least:
                best, least = magnitude, cost
        codes[row] = best if targets[row] > 0 else -best
    return codes
