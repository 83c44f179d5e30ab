"""Tables whose rows are cache lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LINE_BYTES = 64  # of the processors that there are; on any other, results are the same


def aligned_zeros(size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros [size] that begin at the start of a cache line."""
    width = np.dtype(dtype).itemsize
    whole = np.zeros(size * width + LINE_BYTES, np.uint8)
    first = -whole.ctypes.data % LINE_BYTES
    return whole[first : first + size * width].view(dtype)
