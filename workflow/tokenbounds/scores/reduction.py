"""From logits to losses, ranks and entropies on a CPU, in two readings of each row while it is in the cache.

torch needs eight passes over the logits for the same, each with a barrier at which all threads wait for the slowest;
beside another busy process that doubles the time of scoring. Here a thread takes a few rows, and nothing waits.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tokenbounds.compiled import compiled

Reduced = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]
"""Losses in nats, ranks, and entropies in nats, each [n]."""

# Logits that are summed in float32 before they are added to a float64 sum.
_RUN = 4096
# A thread takes so many logits at a time.
_TASK = 1 << 20
# exp of less is below 1e-37 of the largest term: it changes no sum.
_LEAST = np.float32(-87.0)
# exp(x) = 2^k exp(r) with x = k ln 2 + r, and exp(r) = 1 + r + r² P(r) by Cephes' polynomial (S. Moshier, 1989).
_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_P5, _P4, _P3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P2, _P1, _P0 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_ONE = np.float32(1.0)


# Sums may be taken in any order; NaN and infinities keep their meaning.
@compiled(nogil=True, fastmath={"reassoc", "nsz", "contract"}, error_model="numpy")
def _sums(logits, largest):  # type: ignore[no-untyped-def]
    """Σ exp(d) and Σ d exp(d) over d = l - largest, float32.

    The loop has neither a call nor a branch nor a loop around it, so that the compiler computes many logits at once.
    """
    total, weighted = np.float32(0.0), np.float32(0.0)
    for index in range(logits.size):
        d = logits[index] - largest
        d = _LEAST if d < _LEAST else d
        k = np.rint(d * _LOG2_E)
        r = d - k * _LN2_HIGH - k * _LN2_LOW
        p = ((((_P5 * r + _P4) * r + _P3) * r + _P2) * r + _P1) * r + _P0
        power = np.int32((np.int32(k) + 127) << 23).view(np.float32)  # 2^k, by its exponent
        mass = (p * r * r + r + _ONE) * power
        total += mass
        weighted += mass * d
    return total, weighted


@compiled(nogil=True, error_model="numpy")
def _extremes(bits, row, target):  # type: ignore[no-untyped-def]
    """The largest logit, as an integer of its bits, and how many are at least `target`."""
    # As integers with the lower bits of negative ones flipped, floats keep their order, and the largest of integers is
    # found many at a time. A NaN is the largest, or makes the sums NaN.
    largest, rank = np.int32(-(2**31)), np.int32(0)
    for index in range(row.size):
        ordered = bits[index] ^ ((bits[index] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        largest = max(largest, ordered)
        rank += row[index] >= target
    return largest ^ ((largest >> np.int32(31)) & np.int32(0x7FFFFFFF)), rank


@compiled(nogil=True, error_model="numpy")
def _reduce_rows(logits, bits, targets, nll_nats, rank, entropy):  # type: ignore[no-untyped-def]
    for index in range(len(logits)):
        row = logits[index]
        target = row[targets[index]]
        found, rank[index] = _extremes(bits[index], row, target)
        largest = np.int32(found).view(np.float32)
        total, weighted = 0.0, 0.0  # float64
        for first in range(0, row.size, _RUN):
            some, some_weighted = _sums(row[first : first + _RUN], largest)
            total += some
            weighted += some_weighted
        log_sum = math.log(total)
        nll_nats[index] = log_sum + (np.float64(largest) - np.float64(target))
        entropy[index] = log_sum - weighted / total


def reduce_logits(logits: NDArray[np.float32], targets: NDArray[np.int64], threads: int) -> Reduced:
    """Losses, ranks and entropies of predictions.

    A row's results depend on nothing but that row: neither on the number of threads nor on the other rows.

    Parameters
    ----------
    logits
        float32 [n, V].
    targets
        The true tokens, [n].

    Returns
    -------
    tuple
        Losses in nats, ln Σ exp(l - max) + (max - l_target): both terms are at least zero, so no rounding makes one
        negative. Ranks: how many logits are at least the target's. Entropies in nats: ln Σ exp(l - max), less the
        average of l - max weighted by exp(l - max). A row with a logit that is NaN or +∞ has the loss NaN.
    """
    count, vocabulary = logits.shape
    nll_nats, rank = np.empty(count, np.float32), np.empty(count, np.int32)
    entropy = np.empty(count, np.float32)
    bits = logits.view(np.int32)
    step = max(1, min(_TASK // vocabulary, -(-count // threads)))
    # The machine code of _reduce_rows holds a copy of _sums that adds in another order. Which of the two runs must not
    # depend on whether the code was compiled here or read from numba's cache: whatever is loaded first does.
    _sums(np.zeros(1, np.float32), np.float32(0.0))

    def reduce(first: int) -> None:
        rows = slice(first, first + step)
        _reduce_rows(logits[rows], bits[rows], targets[rows], nll_nats[rows], rank[rows], entropy[rows])

    if threads == 1 or count <= step:
        for first in range(0, count, step):
            reduce(first)
    else:
        list(_pool(threads).map(reduce, range(0, count, step)))
    return nll_nats, rank, entropy


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="reduction")
