"""Nested messages: the finer digits of a uniform quantization, coded on top of the coarse one.

The coarse message says k: value = default + k × step. A refinement by a factor f says d: the fine code is f k + d, the
fine step is step / f. Coarse and fine code are roundings of the same weight, so |d| is at most f / 2 unless the coarse
codes were trained further. Tensors, names and steps are the coarse message's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape, decode_codes, encode_codes
from tokenbounds.messages.container import Header, Message, Part
from tokenbounds.messages.formats.base import Format
from tokenbounds.messages.formats.grid import GridTensors, default_value, step_of

MAX_FACTOR = 256


@dataclass(frozen=True)
class RefinementFormat(Format):
    """Tensors on grids, and the offsets that refine them.

    Attributes
    ----------
    coarse : GridTensors
    factor : int
        Fine steps per coarse step, 2 to 256.
    offsets : dict of str to int32 array
        Fine code − factor × coarse code.
    """

    coarse: GridTensors
    factor: int
    offsets: dict[str, np.ndarray]
    kind: ClassVar[str] = "refinement"
    part_kinds: ClassVar[tuple[str, ...]] = ("symbols",)

    @classmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Decode the part that `to_parts` wrote, with the codes of the coarse message."""
        if not isinstance(coarse, GridTensors):
            raise MessageError("only a uniform quantization can be refined.")
        factor = message.header["quantizer"].get("factor")
        if not isinstance(factor, int) or isinstance(factor, bool) or not 2 <= factor <= MAX_FACTOR:
            raise MessageError(f"the factor of a refinement is {factor!r:.40}; it must be 2 to {MAX_FACTOR}.")
        sides = list(coarse.codes.values())
        coded = decode_codes(message.content("symbols"), [codes.shape for codes in sides], coder, sides=sides)
        offsets = [_mirror(one, codes) for one, codes in zip(coded, sides, strict=True)]
        return cls(coarse, factor, dict(zip(coarse.codes, offsets, strict=True)))

    def to_parts(self, coder: Coder) -> list[Part]:
        """Offsets as symbols."""
        sides = list(self.coarse.codes.values())
        coded = [_mirror(one, codes) for one, codes in zip(self.offsets.values(), sides, strict=True)]
        return [Part("symbols", encode_codes(coded, coder, sides=sides))]

    def header(self) -> Header:
        """The `quantizer` entry of the message's header."""
        return {"kind": self.kind, "factor": self.factor}

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
