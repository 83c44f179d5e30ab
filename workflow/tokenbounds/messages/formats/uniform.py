"""Uniform scalar quantization: every tensor on its own grid, one step per tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import CodeSequence, Shape, decode_codes, encode_codes, iter_codes
from tokenbounds.messages.container import Header, Message, Part
from tokenbounds.messages.formats.base import Format
from tokenbounds.messages.formats.grid import GridTensors, decode_exponents, encode_exponents, grid_values


@dataclass(frozen=True)
class UniformFormat(GridTensors, Format):
    """A model whose tensors are `GridTensors`; its message can be refined.

    Attributes
    ----------
    shapes : mapping of str to tuple of int
        Of all tensors, in the model's order; if they are not given, those of the codes.
    """

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    kind: ClassVar[str] = "uniform"
    part_kinds: ClassVar[tuple[str, ...]] = ("scales", "symbols")

    def __post_init__(self) -> None:
        if not self.shapes:
            object.__setattr__(self, "shapes", {name: codes.shape for name, codes in self.codes.items()})

    def header(self) -> Header:
        """The message's header needs nothing but the kind."""
        return {"kind": self.kind}

    def symbols(self) -> CodeSequence:
        """Codes of all tensors in the model's order."""
        names = list(self.shapes)
        return CodeSequence(list(self.shapes.values()), lambda place: self.codes[names[place]])

    def to_parts(self, coder: Coder) -> list[Part]:
        """Exponents as scales, codes as symbols."""
        scales = encode_exponents(list(self.exponents.values()))
        return [Part("scales", scales), Part("symbols", encode_codes(self.symbols(), coder))]

    @classmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Decode the parts that `to_parts` wrote."""
        exponents = decode_exponents(message.part("scales"), len(shapes))
        codes = decode_codes(message.content("symbols"), list(shapes.values()), coder)
        return cls(dict(zip(shapes, codes, strict=True)), dict(zip(shapes, exponents, strict=True)))

    @classmethod
    def stream_values(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the tensors, decoded one at a time."""
        names = list(shapes)
        exponents = decode_exponents(message.part("scales"), len(names))
        cls({}, {}).check_header(message)
        for index, codes in iter_codes(message.content("symbols"), list(shapes.values()), coder):
            yield names[index], grid_values(names[index], codes, exponents[index])
