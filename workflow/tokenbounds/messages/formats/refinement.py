"""Nested messages: the finer digits of a uniform quantization, coded given the coarse one.

The coarse message says k: value = default + k × step. A refinement by a factor f says d: the fine code is f k + d, the
fine step is step / f. Coarse and fine code are roundings of the same weight, so that |d| is at most f / 2 unless the
coarse codes were trained further. Tensors, names and steps are the coarse message's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import MAX_MAGNITUDE
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import decode_codes, encode_codes
from tokenbounds.messages.container import Message, Part
from tokenbounds.messages.formats.uniform import UniformQuantized, default_value, step_of
from tokenbounds.messages.side_information import REFINEMENT

MAX_FACTOR = 256


@dataclass(frozen=True)
class RefinedQuantized:
    """A uniform quantization and the offsets that refine it.

    Attributes
    ----------
    coarse : UniformQuantized
    factor : int
        Fine steps in a coarse one, 2 to 256.
    offsets : dict of str to int32 array
        Fine code − factor × coarse code.
    """

    coarse: UniformQuantized
    factor: int
    offsets: dict[str, np.ndarray]

    @classmethod
    def refine(cls, coarse: UniformQuantized, factor: int, tensors: Mapping[str, np.ndarray]) -> Self:
        """Round `tensors` (float32) to the fine steps, halves to even.

        Raises
        ------
        MessageError
            If names or shapes are not those of the coarse codes, or a value is too large.
        """
        if {name: codes.shape for name, codes in coarse.codes.items()} != {
            name: tensor.shape for name, tensor in tensors.items()
        }:
            raise MessageError("the coarse message is one of another model: its tensors differ.")
        offsets = {}
        for name, tensor in tensors.items():
            step = fine_step(coarse.exponents[name], factor)
            scaled = (tensor.astype(np.float64) - default_value(name, tensor.shape)) / step
            if not np.all(np.abs(scaled) < 1 << 29):
                raise MessageError(f"{name} holds values that are not finite, or too large for the step {step}.")
            found = np.rint(scaled).astype(np.int64) - factor * coarse.codes[name].astype(np.int64)
            if found.size and int(np.abs(found).max()) > MAX_MAGNITUDE:
                raise MessageError(f"{name} is too far from its coarse values. Use a smaller factor.")
            offsets[name] = found.astype(np.int32)
        return cls(coarse, factor, offsets)

    @classmethod
    def from_message(cls, message: Message, coarse: UniformQuantized, coder: Coder) -> Self:
        """Decode the part that `to_parts` wrote.

        Raises
        ------
        MessageError
            If the factor or the bytes are damaged.
        """
        factor = message.header["quantizer"].get("factor")
        if not isinstance(factor, int) or isinstance(factor, bool) or not 2 <= factor <= MAX_FACTOR:
            raise MessageError(f"the factor of a refinement is {factor!r:.40}; it must be 2 to {MAX_FACTOR}.")
        sides = list(coarse.codes.values())
        coded = decode_codes(message.part("symbols"), [codes.shape for codes in sides], coder, sides=sides)
        offsets = [_mirror(one, codes) for one, codes in zip(coded, sides, strict=True)]
        return cls(coarse, factor, dict(zip(coarse.codes, offsets, strict=True)))

    def to_parts(self, coder: Coder) -> list[Part]:
        """Offsets as symbols."""
        sides = list(self.coarse.codes.values())
        coded = [_mirror(one, codes) for one, codes in zip(self.offsets.values(), sides, strict=True)]
        return [Part("symbols", encode_codes(coded, coder, sides=sides))]

    def header(self) -> dict[str, Any]:
        """The `quantizer` entry of the message's header."""
        return {"kind": REFINEMENT, "factor": self.factor}

    def symbols(self) -> list[np.ndarray]:
        """The offsets."""
        return list(self.offsets.values())

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name; product and sum are rounded to float32 one after the other."""
        values = {}
        for name, offsets in self.offsets.items():
            codes = self.factor * self.coarse.codes[name].astype(np.int64) + offsets
            product = codes.astype(np.float32) * fine_step(self.coarse.exponents[name], self.factor)
            values[name] = product + default_value(name, codes.shape)
        return values


def fine_step(exponent: int, factor: int) -> np.float32:
    """A coarse step divided by the factor, rounded to float32 as IEEE says: the same bits on every machine."""
    return np.float32(step_of(exponent) / np.float32(factor))


def _mirror(values: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Change the sign where the coarse code is negative, so that positive means away from zero; its own inverse."""
    return np.where(coarse < 0, -values, values)
