"""The binary logarithm of a probability, equal on every machine: nothing but the operations that IEEE 754 defines."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenbounds.compiled import compiled

_PARTS = 256  # of [1/2, 1), each with its middle's logarithm
_PER_LN2 = 1.4426950408889634  # 1 / ln 2


def log2_table() -> npt.NDArray[np.float64]:
    """log2 of the middles of 256 equal parts of [1/2, 1): float64 [256], rounded from 30 digits."""
    with localcontext(prec=30):
        middles = [Decimal(2 * (_PARTS + part) + 1) / (4 * _PARTS) for part in range(_PARTS)]
        return np.array([float(middle.ln() / Decimal(2).ln()) for middle in middles])


@compiled()
def log2(value: Any, table: Any) -> float:
    """log2 of a positive number to within 2^-50 of it, by a table and five terms of the series of ln(1 + r)."""
    fraction, exponent = math.frexp(value)  # in [1/2, 1)
    part = int(fraction * (2 * _PARTS)) - _PARTS
    middle = (2 * (_PARTS + part) + 1) / (4.0 * _PARTS)
    r = (fraction - middle) / middle  # at most 2^-9 in absolute value, so that r^6 / 6 < 2^-56
    series = r * (1.0 - r * (1.0 / 2 - r * (1.0 / 3 - r * (1.0 / 4 - r * (1.0 / 5)))))
    return float(exponent) + (table[part] + series * _PER_LN2)
