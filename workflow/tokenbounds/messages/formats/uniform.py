"""Uniform scalar quantization: value = default + code × step, one step a tensor on a logarithmic grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any, Self

import numpy as np

from tokenbounds.config.quantizers import UniformQuantizer
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder, decode_symbols, encode_symbols
from tokenbounds.messages.coding.tensors import Shape, decode_codes, encode_codes
from tokenbounds.messages.container import Message, Part

STEPS_PER_OCTAVE = 8
LEAST_EXPONENT, EXPONENTS = -512, 1024  # steps from 2^-64 to 2^64
VECTOR_REFINEMENT = 8.0  # norms and biases are few and matter much: their steps are finer by this factor


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
    """What code 0 stands for: 1 for the weights of norms (vectors named weight), else 0."""
    return np.float32(1.0 if len(shape) == 1 and name.endswith("weight") else 0.0)


@dataclass(frozen=True)
class UniformQuantized:
    """Tensors as integer codes and step exponents.

    Attributes
    ----------
    codes : dict of str to int32 array
    exponents : dict of str to int
        In [-512, 512); the step is 2^(exponent / 8).
    """

    codes: dict[str, np.ndarray]
    exponents: dict[str, int]

    @classmethod
    def quantize(cls, spec: UniformQuantizer, tensors: Mapping[str, np.ndarray]) -> Self:
        """Round to steps of `step_ratio` × the root mean square of what differs from the default, vectors finer."""
        exponents = {}
        for name, tensor in tensors.items():
            if not np.all(np.isfinite(tensor)):
                raise MessageError(f"{name} holds values that are not finite. Train or load the model again.")
            offset = tensor.astype(np.float64) - default_value(name, tensor.shape)
            ratio = spec.step_ratio if tensor.ndim >= 2 else spec.step_ratio / VECTOR_REFINEMENT
            exponents[name] = exponent_of(ratio * float(np.sqrt(np.mean(offset**2))) if tensor.size else 0.0)
        return cls.round(tensors, exponents)

    @classmethod
    def round(cls, tensors: Mapping[str, np.ndarray], exponents: Mapping[str, int]) -> Self:
        """Round to the given steps, halves to even."""
        codes = {}
        for name, tensor in tensors.items():
            step = step_of(exponents[name])
            scaled = (tensor.astype(np.float64) - default_value(name, tensor.shape)) / step
            if not np.all(np.abs(scaled) < 1 << 29):
                raise MessageError(f"{name} holds values that are not finite, or too large for the step {step}.")
            codes[name] = np.rint(scaled).astype(np.int32)
        return cls(codes, dict(exponents))

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name; product and sum are rounded to float32 one after the other."""
        values = {}
        for name, codes in self.codes.items():
            product = codes.astype(np.float32) * step_of(self.exponents[name])
            values[name] = product + default_value(name, codes.shape)
        return values

    def header(self) -> dict[str, Any]:
        """The message's header needs nothing but the kind."""
        return {"kind": "uniform"}

    def symbols(self) -> list[np.ndarray]:
        """All codes."""
        return list(self.codes.values())

    def to_parts(self, coder: Coder) -> list[Part]:
        """Exponents as scales, codes as symbols."""
        scales = encode_exponents(list(self.exponents.values()))
        return [Part("scales", scales), Part("symbols", encode_codes(self.symbols(), coder))]

    @classmethod
    def from_message(cls, message: Message, shapes: Mapping[str, Shape], coder: Coder) -> Self:
        """Decode the parts that `to_parts` wrote."""
        exponents = decode_exponents(message.part("scales"), len(shapes))
        codes = decode_codes(message.part("symbols"), list(shapes.values()), coder)
        return cls(dict(zip(shapes, codes, strict=True)), dict(zip(shapes, exponents, strict=True)))


def encode_exponents(exponents: list[int]) -> bytes:
    """Code step exponents, neighbours alike."""
    return encode_symbols(np.array(exponents, dtype=np.int64) - LEAST_EXPONENT, EXPONENTS)


def decode_exponents(data: bytes, count: int) -> list[int]:
    """Decode what `encode_exponents` wrote."""
    return [int(value) + LEAST_EXPONENT for value in decode_symbols(data, count, EXPONENTS)]
