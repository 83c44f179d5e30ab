"""Tensors on their own grids: value = default + code × step, one step per tensor on a logarithmic scale.

In every format norms and biases are such tensors; in the simplest format all tensors are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np

from tokenbounds.messages.coding.symbols import decode_symbols, encode_symbols
from tokenbounds.messages.coding.tensors import Shape

STEPS_PER_OCTAVE = 8
LEAST_EXPONENT, EXPONENTS = -512, 1024  # steps from 2^-64 to 2^64


def _fractions() -> np.ndarray:
    """2^(k/8) for k = 0..7, correctly rounded to float32 from decimals, not by a library's power function."""
    with localcontext() as context:
        context.prec = 40
        return np.array([float(Decimal(2) ** (Decimal(k) / STEPS_PER_OCTAVE)) for k in range(8)], dtype=np.float32)


_FRACTIONS = _fractions()


def step_of(exponent: int) -> np.float32:
    """The step 2^(exponent / 8) as float32, the same bits on every machine."""
    whole, part = divmod(int(exponent), STEPS_PER_OCTAVE)
    return np.float32(np.ldexp(_FRACTIONS[part], whole))


def exponent_of(step: float) -> int:
    """The exponent whose step is nearest to `step` on the logarithmic grid; that of a step of zero is zero."""
    if not step > 0:
        return 0
    exponent = round(STEPS_PER_OCTAVE * float(np.log2(step)))
    return min(max(exponent, LEAST_EXPONENT), LEAST_EXPONENT + EXPONENTS - 1)


def default_value(name: str, shape: Shape) -> np.float32:
    """The value of code 0: 1 for the weights of norms (vectors named weight), otherwise 0."""
    return np.float32(1.0 if len(shape) == 1 and name.endswith("weight") else 0.0)


def grid_values(name: str, codes: np.ndarray, exponent: int) -> np.ndarray:
    """Float32 values of a tensor's codes; product and sum are rounded to float32 one after the other."""
    values: np.ndarray = codes.astype(np.float32)
    values *= step_of(exponent)
    values += default_value(name, codes.shape)
    return values


@dataclass(frozen=True)
class GridTensors:
    """Tensors as integer codes and step exponents.

    Attributes
    ----------
    codes : mapping of str to int32 array
        Each may be read from a file when it is asked for.
    exponents : dict of str to int
        In [-512, 512); the step is 2^(exponent / 8).
    """

    codes: Mapping[str, np.ndarray]
    exponents: dict[str, int]

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name."""
        return dict(self.iter_values())

    def iter_values(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield names and float32 tensors, one after the other."""
        for name, codes in self.codes.items():
            yield name, grid_values(name, codes, self.exponents[name])


def encode_exponents(exponents: list[int]) -> bytes:
    """Code step exponents; neighbours should be similar."""
    return encode_symbols(np.array(exponents, dtype=np.int64) - LEAST_EXPONENT, EXPONENTS)


def decode_exponents(data: bytes, count: int) -> list[int]:
    """Decode what `encode_exponents` wrote."""
    return [int(value) + LEAST_EXPONENT for value in decode_symbols(data, count, EXPONENTS)]
