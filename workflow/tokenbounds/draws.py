"""Draws that are the same on every machine: integers from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def uniform_integers(bound: int, count: int, seed: int) -> NDArray[np.int64]:
    """Draw `count` independent integers, exactly uniform on 0 … bound-1, the same on every machine and release.

    Raw 64-bit words of Philox are used, whose stream numpy guarantees; words beyond the largest multiple of `bound` are
    drawn again, so that no residue is favoured.
    """
    generator = np.random.Philox(seed)
    last = np.uint64((2**64 // bound) * bound - 1)
    accepted = np.empty(0, np.uint64)
    while len(accepted) < count:
        words = generator.random_raw(count - len(accepted))
        accepted = np.concatenate([accepted, words[words <= last]])
    return (accepted % np.uint64(bound)).astype(np.int64)
