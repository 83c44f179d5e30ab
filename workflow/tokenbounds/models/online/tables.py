"""Tables of the integer logistic mixing: computed in decimal arithmetic, and therefore equal on every machine."""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import numpy.typing as npt

# Log-odds are integers in units of 1/256 nat, from -2047 to 2047: probabilities from 0.0003 to 0.9997.
ODDS_UNIT = 256
MOST_ODDS = 2047


@cache
def squash_table() -> npt.NDArray[np.uint16]:
    """Probabilities (of 1, in units of 1/65536) of the log-odds -2047 … 2047: uint16 [4095], increasing."""
    with localcontext(prec=30):
        odds = [Decimal(x) / ODDS_UNIT for x in range(-MOST_ODDS, MOST_ODDS + 1)]
        return np.array([int((65536 / (1 + (-each).exp())).to_integral_value()) for each in odds], np.uint16)


@cache
def stretch_table() -> npt.NDArray[np.int16]:
    """Log-odds of the probabilities (k + 1/2) / 4096: int16 [4096], non-decreasing."""
    with localcontext(prec=30):
        middle = [Decimal(2 * k + 1) / 8192 for k in range(4096)]
        odds = [int((ODDS_UNIT * (p / (1 - p)).ln()).to_integral_value()) for p in middle]
    return np.clip(odds, -MOST_ODDS, MOST_ODDS).astype(np.int16)


@cache
def rate_table() -> npt.NDArray[np.int32]:
    """How far a probability seen n times moves towards the next bit, about 1 / (n + 1.6) in 1/65536: int32 [256]."""
    return np.array([655360 // (10 * n + 16) for n in range(256)], np.int32)


@cache
def confidence_table() -> npt.NDArray[np.int32]:
    """The weight of a probability seen n times, n / 24 up to 30 / 24 in 1/32: int32 [256]."""
    return np.array([32 * min(n, 30) // 24 for n in range(256)], np.int32)
