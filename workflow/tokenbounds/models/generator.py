"""Numbers from seeds: the same float32 values on every machine, in every version of every library.

The fixed part of a model is not in its message, only its seed is. The decoder must find exactly the same numbers, so
they come from the integers of Philox4x64-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"),
whose stream numpy guarantees for its bit generators, followed by one exact conversion and one IEEE multiplication.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

_CHUNK = 1 << 19
_STEPS = 1 << 24


def philox(seed: int, name: str) -> np.random.Philox:
    """A Philox counter at zero, keyed by SHA-256 of the seed and the name."""
    digest = hashlib.sha256(f"tokenbounds {seed} {name}".encode()).digest()
    return np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64), counter=0)


def uniform(seed: int, name: str, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Uniform values with mean 0 and the given standard deviation.

    Each value is an odd integer of magnitude below 2^24, exact in float32, times float32(std · √3 / 2^24).

    Parameters
    ----------
    seed, name
        Key of the stream: different names give independent tensors.
    shape
        Shape of the result.
    std
        Standard deviation; the values are within ±√3 · std.

    Returns
    -------
    float32 array of `shape`.
    """
    generator = philox(seed, name)
    values = np.empty(math.prod(shape), dtype=np.float32)
    unit = np.float32(std * math.sqrt(3.0) / _STEPS)
    for first in range(0, values.size, _CHUNK):
        count = min(_CHUNK, values.size - first)
        raw = generator.random_raw((count + 1) // 2).astype("<u8").view("<u4")[:count]
        odd = (raw >> np.uint32(8)).astype(np.int32) * np.int32(2) + np.int32(1 - _STEPS)
        values[first : first + count] = odd.astype(np.float32) * unit
    return values.reshape(shape)
