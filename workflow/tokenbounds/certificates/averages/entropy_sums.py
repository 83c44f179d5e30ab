"""The inner loop of `EntropyMoments`, compiled: each token is added to one cell, whose sums lie side by side in memory.

Distances are multiples of 2^-25 of a bin, squares and cubes are rounded to that: sums are integers, the same whatever
the order of tokens, their batches and the machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenbounds.compiled import compiled

UNIT = 2.0**25
_ROUND = 1.5 * 2.0**27  # adding a number whose last bit is worth 2^-25 and subtracting it again rounds to that

_compiled = compiled(nogil=True, error_model="numpy")


@_compiled
def add_tokens(
    nll_bits: np.ndarray,
    entropy_bits: np.ndarray,
    rank: np.ndarray,
    top_k: np.ndarray,
    scales: tuple[float, float],
    cells: np.ndarray,
    wrong: np.ndarray,
) -> Any:
    """Add tokens to the sums of their cells.

    Parameters
    ----------
    nll_bits, entropy_bits, rank
        Of tokens [n]; there may be no ranks if there are no `top_k`.
    top_k
        The k whose errors are counted by entropy [q].
    scales
        Bins of losses and steps of entropies per bit.
    cells
        int64 [levels, bins, 4]: tokens, and sums of d, d^2 and d^3 in units of 2^-25, where d is the middle of the bin
        minus the loss, in bins. The last bin is of losses that count as infinite.
    wrong
        int64 [q, levels]: tokens whose rank exceeds k.

    Returns
    -------
    bool
        Whether all of them were added: False at the first loss or entropy that is impossible.
    """
    levels, bins = cells.shape[:2]
    infinite = bins - 0.5
    for token in range(nll_bits.size):
        loss, entropy = np.float64(nll_bits[token]), np.float64(entropy_bits[token])
        step = np.rint(entropy * scales[1])
        if not (loss >= 0.0 and entropy >= 0.0 and step < levels):  # nor a NaN
            return False
        scaled = min(loss * scales[0], infinite)
        place = max(np.ceil(scaled) - 1.0, 0.0)
        distance = (((place + 0.5) - scaled) + _ROUND) - _ROUND  # -1/2 to 1/2
        square = (distance * distance + _ROUND) - _ROUND
        cube = (distance * square + _ROUND) - _ROUND
        level = np.int64(step)
        cell = cells[level, np.int64(place)]
        cell[0] += 1
        cell[1] += np.int64(distance * UNIT)
        cell[2] += np.int64(square * UNIT)
        cell[3] += np.int64(cube * UNIT)
        for number in range(top_k.size):
            if rank[token] > top_k[number]:
                wrong[number, level] += 1
    return True
