"""Randomized Hadamard rotations: QuIP's incoherence, undone from a seed, with the same bits on every machine.

A rotation of R^n is H · diag(s) / √n: random signs s, then a Hadamard matrix H. H is the Kronecker product of a matrix
of order 2^b·m, m odd (Paley's or Williamson's), and a Sylvester matrix. Where no such matrix is known here, two
Sylvester matrices overlap: one acts on the first p coordinates, one on the last p, p the largest power of two up to n,
each after its own signs.

Decoded values are the same on every machine: signs are bits of an integer generator, and the transform is a fixed
sequence of float additions, subtractions and, last, one multiplication by a correctly rounded constant, each on whole
arrays, element by element. IEEE 754 fixes the result of each; nothing is summed by a library in an order of its own.

References
----------
A. Tseng et al., "QuIP#", 2024, arXiv 2402.04396, section 3. R. Paley, "On orthogonal matrices", 1933. J. Williamson,
"Hadamard's determinant theorem and the sum of four squares", 1944.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from tokenbounds.models.generator import philox

MAX_ORDER = 256  # largest order of the factor that is not a power of two; its cost per value is its order
_CHUNK_VALUES = 1 << 17  # a block of columns that stays in the cache

# First halves of the first rows of the four symmetric circulants of Williamson matrices, a set bit for +1. They are the
# ones that published QuIP# checkpoints are rotated with.
_WILLIAMSON = {
    13: (0x53, 0x47, 0x69, 0x42),
    29: (0x64BB, 0x7B47, 0x5197, 0x7194),
    31: (0x9D21, 0x9D21, 0x83A9, 0xFC56),
    39: (0xE504C, 0xF130A, 0xE68A4, 0x8D41D),
    43: (0x233D76, 0x37E14D, 0x3ACAF4, 0x31E930),
}
_LAYOUT = ((0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0))
_LAYOUT_SIGNS = ((1, 1, 1, 1), (-1, 1, -1, 1), (-1, 1, 1, -1), (-1, -1, 1, 1))


@dataclass(frozen=True)
class Rotation:
    """A random orthogonal map R of R^size that a seed and a name determine.

    Attributes
    ----------
    size : int
    seed : int
    name : str
        Different names give independent rotations.
    """

    size: int
    seed: int
    name: str

    def apply(self, values: np.ndarray) -> np.ndarray:
        """R · values for a float32 or float64 array [size, k]; a new array of the same type."""
        if hadamard_order(self.size):
            return hadamard_transform(values * self._signs[0].astype(values.dtype)[:, None])
        # No Hadamard matrix of this size: two that overlap, each of a power of two, and signs between them.
        first, last = self._halves
        rotated = values * self._signs[0].astype(values.dtype)[:, None]
        rotated[first] = hadamard_transform(rotated[first])
        rotated *= self._signs[1].astype(values.dtype)[:, None]
        rotated[last] = hadamard_transform(rotated[last])
        return rotated

    def undo(self, values: np.ndarray) -> np.ndarray:
        """R' · values, the inverse of `apply`, for a float32 or float64 array [size, k]; a new array."""
        signs = self._signs.astype(values.dtype)[:, :, None]
        if hadamard_order(self.size):
            return hadamard_transform(values, transpose=True) * signs[0]
        first, last = self._halves
        restored = values.copy()
        restored[last] = hadamard_transform(restored[last], transpose=True)
        restored *= signs[1]
        restored[first] = hadamard_transform(restored[first], transpose=True)
        return restored * signs[0]

    @property
    def _halves(self) -> tuple[slice, slice]:
        power = 1 << (self.size.bit_length() - 1)
        return slice(0, power), slice(self.size - power, self.size)

    @cached_property
    def _signs(self) -> np.ndarray:
        """±1, int8 [2, size]; the second row is used by overlapping transforms only."""
        words = philox(self.seed, f"signs/{self.name}").random_raw(-(-2 * self.size // 64)).astype("<u8")
        bits = np.unpackbits(words.view(np.uint8), count=2 * self.size, bitorder="little")
        return (1 - 2 * bits.astype(np.int8)).reshape(2, self.size)


def rotate_weight(weight: np.ndarray, seed: int, name: str) -> np.ndarray:
    """U · weight · V' with seeded rotations U of the rows and V of the columns, for a float array [rows, cols]."""
    rows, columns = weight_rotations(weight.shape, seed, name)
    return np.ascontiguousarray(columns.apply(np.ascontiguousarray(rows.apply(weight).T)).T)


def restore_weight(rotated: np.ndarray, seed: int, name: str) -> np.ndarray:
    """U' · rotated · V, the inverse of `rotate_weight`; what a decoder computes, in float32, columns first."""
    rows, columns = weight_rotations(rotated.shape, seed, name)
    return rows.undo(np.ascontiguousarray(columns.undo(np.ascontiguousarray(rotated.T)).T))


def rotate_hessian(hessian: np.ndarray, seed: int, name: str) -> np.ndarray:
    """V · hessian · V' for the Hessian [cols, cols] of the inputs of a weight that `rotate_weight` rotates.

    The layer's proxy loss tr(W H W') is the same before and after.
    """
    columns = Rotation(len(hessian), seed, f"{name}/columns")
    half = columns.apply(np.asarray(hessian, dtype=np.float64))
    return np.ascontiguousarray(columns.apply(np.ascontiguousarray(half.T)))


def weight_rotations(shape: tuple[int, ...], seed: int, name: str) -> tuple[Rotation, Rotation]:
    """The rotations of the rows and of the columns of a weight."""
    return Rotation(shape[0], seed, f"{name}/rows"), Rotation(shape[1], seed, f"{name}/columns")


def hadamard_transform(values: np.ndarray, transpose: bool = False) -> np.ndarray:
    """H · values / √n, or H' · values / √n, for a float32 or float64 array [n, k]; `hadamard_order(n)` is not zero."""
    size = len(values)
    factor = hadamard_matrix(hadamard_order(size)).astype(values.dtype)
    factor = factor.T if transpose else factor
    scale = values.dtype.type(1.0 / math.sqrt(size))
    result = np.empty_like(values, order="C")
    step = max(1, _CHUNK_VALUES // max(size, 1))
    for start in range(0, values.shape[1], step):
        block = np.ascontiguousarray(values[:, start : start + step])
        result[:, start : start + step] = _transform_block(block, factor) * scale
    return result


def _transform_block(block: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """(factor ⊗ Sylvester) · block: butterflies from neighbours outwards, then the factor's columns in order."""
    size, cols = block.shape
    width = 1
    while width < size // len(factor):
        pairs = block.reshape(-1, 2, width * cols)  # neighbours that are `width` rows apart
        block = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        width *= 2
    if len(factor) == 1:
        return block.reshape(size, cols)
    # A sum in a fixed order, unlike a matrix product's: its bits must be the same on every machine.
    parts = block.reshape(len(factor), 1, -1)
    total = factor[:, 0, None] * parts[0]
    for column in range(1, len(factor)):
        total += factor[:, column, None] * parts[column]
    return total.reshape(size, cols)


def hadamard_order(size: int) -> int:
    """Order of the factor of a Hadamard matrix of `size` that is not a Sylvester matrix: 1 for powers of two.

    0 if there is none up to `MAX_ORDER`.
    """
    odd = size // (size & -size)
    if odd == 1:
        return 1
    for order in (odd << shift for shift in range(2, 9)):
        if order <= MAX_ORDER and size % order == 0 and _construction(order):
            return order
    return 0


@lru_cache(maxsize=32)
def hadamard_matrix(order: int) -> np.ndarray:
    """A Hadamard matrix, int8 ±1 [order, order], for an order that `hadamard_order` returns.

    By Williamson's method for the tabled orders, otherwise by Paley's first (order − 1 prime) or second (order / 2 − 1
    prime).
    """
    kind = _construction(order)
    if kind == "williamson":
        return _williamson(order // 4)
    if kind == "paley-1":
        return _paley_first(order - 1)
    if kind == "paley-2":
        return _paley_second(order // 2 - 1)
    return np.ones((1, 1), dtype=np.int8)


def _construction(order: int) -> str:
    if order % 4 == 0:
        if order // 4 in _WILLIAMSON:
            return "williamson"
        if _is_prime(order - 1):
            return "paley-1"
        if _is_prime(order // 2 - 1) and (order // 2 - 1) % 4 == 1:
            return "paley-2"
    return ""


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _jacobsthal(prime: int) -> np.ndarray:
    """Quadratic character of (row − column) modulo a prime."""
    character = np.full(prime, -1, dtype=np.int8)
    character[[value * value % prime for value in range(1, prime)]] = 1
    character[0] = 0
    index = np.arange(prime)
    return character[(index[:, None] - index) % prime]


def _paley_first(prime: int) -> np.ndarray:
    matrix = np.ones((prime + 1, prime + 1), dtype=np.int8)
    matrix[0, 1:] = -1
    matrix[1:, 1:] = _jacobsthal(prime) + np.eye(prime, dtype=np.int8)
    return matrix


def _paley_second(prime: int) -> np.ndarray:
    conference = np.ones((prime + 1, prime + 1), dtype=np.int8)
    conference[0, 0] = 0
    conference[1:, 1:] = _jacobsthal(prime)
    identity = np.eye(prime + 1, dtype=np.int8)
    plus, minus = conference + identity, conference - identity
    return np.block([[plus, minus], [minus, -plus]])


def _williamson(size: int) -> np.ndarray:
    index = np.arange(size)
    circulants = []
    for bits in _WILLIAMSON[size]:
        half = [1 if bits >> (size // 2 - place) & 1 else -1 for place in range(size // 2 + 1)]
        first = np.array(half + half[:0:-1], dtype=np.int8)
        circulants.append(first[(index - index[:, None]) % size])
    rows = [
        [np.int8(sign) * circulants[which] for which, sign in zip(places, signs, strict=True)]
        for places, signs in zip(_LAYOUT, _LAYOUT_SIGNS, strict=True)
    ]
    return np.block(rows)
