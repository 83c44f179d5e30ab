"""Lattice codebooks of QuIP#: E8P, 2^16 points of eight coordinates, and a 256-point ball of E8 for residuals.

A point of E8P is one of 256 vectors of odd halves (227 of squared length at most 10, 29 of 12) with signs that make its
sum even, moved by +1/4 or −1/4 in every coordinate. A code holds the entry in its upper byte. The lower byte holds
seven signs and, as its own parity, the direction of the move; the eighth sign follows from the sum.
Coordinates are kept as integers: quarters for E8P, halves for the ball.

References
----------
A. Tseng et al., "QuIP#", 2024, arXiv 2402.04396, section 4.2; the order of entries and bits is that of the published
checkpoints, so their codes can be used unchanged.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import numpy as np

from tokenbounds.compiled import compiled

SIZE = 8
E8P_CODES = 1 << 16

# Which coordinates of the 29 entries of squared length 12 are 1/2 (set bits, first coordinate highest), not 3/2.
_SHORT = (
    0x70, 0xB0, 0xD0, 0xE0, 0x13, 0x15, 0x19, 0x16, 0x1A, 0x1C, 0x23, 0x25, 0x29, 0x26, 0x2A, 0x2C, 0x43, 0x45, 0x49,
    0x46, 0x4A, 0x8C, 0x83, 0x85, 0x89, 0x86, 0x8A, 0xC8, 0x31,
)  # fmt: skip
_SIGN_BITS = (0, 4, 1, 5, 2, 6, 3, 7)  # bit of the lower byte that holds each coordinate's sign
_OPTIONS: dict[str, Any] = {"error_model": "numpy"}


@lru_cache(maxsize=1)
def _entries() -> np.ndarray:
    """The 256 entries times two: odd integers, int8 [256, 8]."""
    short = [entry for entry in itertools.product((1, 3, 5), repeat=SIZE) if sum(part**2 for part in entry) <= 40]
    long = [[1 if bits >> (SIZE - 1 - place) & 1 else 3 for place in range(SIZE)] for bits in _SHORT]
    return np.array([*short, *long], dtype=np.int8)


@lru_cache(maxsize=1)
def e8p_points() -> np.ndarray:
    """All points of E8P in quarters: odd integers, int8 [65536, 8], by code."""
    entries = _entries()
    codes = np.arange(E8P_CODES)
    places = np.arange(SIZE)
    bits = codes[:, None] >> places & 1  # [65536, 8]
    parity = np.bitwise_xor.reduce(bits, axis=1)  # [65536]
    negative = bits[:, list(_SIGN_BITS)]
    negative[:, 0] ^= parity
    negative[:, SIZE - 1] ^= _sums_odd()[codes >> 8]
    points = entries[codes >> 8] * (2 - 4 * negative) + (1 - 2 * parity)[:, None]
    return points.astype(np.int8)


@lru_cache(maxsize=1)
def ball_points() -> np.ndarray:
    """The ball of E8 in halves, int8 [256, 8], by code: the origin, 240 shortest vectors, 15 of the next length."""
    whole = [point for point in itertools.product((-2, 0, 2), repeat=SIZE) if sum(part**2 for part in point) <= 8]
    half = list(itertools.product((-1, 1), repeat=SIZE))
    even = [point for point in [*whole, *half] if sum(point) % 4 == 0]
    axes = [[sign * 4 * (place == axis) for place in range(SIZE)] for sign in (1, -1) for axis in range(SIZE)]
    return np.array([*even, *axes[:-1]], dtype=np.int8)


def _sums_odd() -> np.ndarray:
    """Whether an entry's coordinates have an odd sum, so that an odd number of signs must be negative; int [256]."""
    return (_entries().sum(axis=1, dtype=np.int64) // 2) % 2


def nearest_e8p(vectors: np.ndarray) -> np.ndarray:
    """Codes of the points of E8P nearest to float vectors [n, 8]; uint16 [n].

    The search is exact: among the points with a given move and entry the best signs are those of the vector, with the
    cheapest one flipped where the sum's parity requires it, so 512 candidates cover all 65,536.
    """
    entries = _entries().astype(np.float32) / 2
    codes = np.empty(len(vectors), dtype=np.uint16)
    norms = (entries**2).sum(axis=1) / 2
    table = np.ascontiguousarray(entries.T)
    _search_e8p(np.ascontiguousarray(vectors, dtype=np.float32), table, norms, _sums_odd(), codes)
    return codes


def nearest_ball(vectors: np.ndarray) -> np.ndarray:
    """Codes of the points of the ball nearest to float vectors [n, 8]; uint16 [n]."""
    points = ball_points().astype(np.float32) / 2
    codes = np.empty(len(vectors), dtype=np.uint16)
    norms = (points**2).sum(axis=1) / 2
    _search_points(np.ascontiguousarray(vectors, dtype=np.float32), np.ascontiguousarray(points.T), norms, codes)
    return codes


@compiled(**_OPTIONS)
def _search_e8p(vectors: np.ndarray, table: np.ndarray, norms: np.ndarray, odd: np.ndarray, codes: np.ndarray) -> None:
    """`table` is the entries transposed, `norms` half their squared lengths."""
    scores, flips = np.empty(norms.size, dtype=np.float32), np.empty(norms.size, dtype=np.float32)
    sizes = np.empty(SIZE, dtype=np.float32)
    # ‖v − p‖² / 2 = ‖v‖² / 2 − (⟨v, p⟩ − ‖p‖² / 2): the best point has the greatest score in parentheses.
    for index in range(len(vectors)):
        least = np.float32(np.inf)
        for parity in range(2):
            move = np.float32(0.25 - 0.5 * parity)
            negatives, length = 0, np.float32(0)
            for place in range(SIZE):
                value = vectors[index, place] - move
                sizes[place] = abs(value)
                length += value * value
                negatives += value < 0
            _score_entries(sizes, table, norms, scores, flips)
            for entry in range(norms.size):
                score = scores[entry]
                if (odd[entry] ^ negatives) & 1:
                    score -= 2 * flips[entry]
                if length / 2 - score < least:
                    least = length / 2 - score
                    codes[index] = _code(vectors[index], move, table, entry, odd[entry])


@compiled(**_OPTIONS)
def _score_entries(
    sizes: np.ndarray, table: np.ndarray, norms: np.ndarray, scores: np.ndarray, flips: np.ndarray
) -> None:
    """Inner product minus half the squared length of every entry, and the least product of coordinates."""
    for entry in range(norms.size):
        scores[entry] = -norms[entry]
        flips[entry] = np.float32(np.inf)
    for place in range(SIZE):
        size = sizes[place]
        for entry in range(norms.size):
            product = size * table[place, entry]
            scores[entry] += product
            flips[entry] = min(flips[entry], product)


@compiled(**_OPTIONS)
def _code(vector: np.ndarray, move: float, table: np.ndarray, entry: int, odd: int) -> int:
    """Code of the best signs of an entry."""
    signs, negatives, cheapest = 0, 0, 0
    for place in range(SIZE):
        if vector[place] - move < 0:
            negatives += 1
            signs ^= 1 << _SIGN_BITS[place]
        if abs(vector[place] - move) * table[place, entry] < abs(vector[cheapest] - move) * table[cheapest, entry]:
            cheapest = place
    if (negatives ^ odd) & 1:
        signs ^= 1 << _SIGN_BITS[cheapest]
    # The last sign counts from the one that makes the sum even; the first is turned where parity must be odd.
    signs ^= (odd & 1) << _SIGN_BITS[SIZE - 1]
    signs ^= 1 if move < 0 else 0
    return entry << 8 | signs


@compiled(**_OPTIONS)
def _search_points(vectors: np.ndarray, table: np.ndarray, norms: np.ndarray, codes: np.ndarray) -> None:
    scores = np.empty(norms.size, dtype=np.float32)
    for index in range(len(vectors)):
        for point in range(norms.size):
            scores[point] = -norms[point]
        for place in range(SIZE):
            value = vectors[index, place]
            for point in range(norms.size):
                scores[point] += value * table[place, point]
        codes[index] = np.argmax(scores)
