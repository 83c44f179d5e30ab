"""Row and column steps in a rotated basis: linear layers between two seeded random rotations (QuIP)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.container import Header, Message, Part
from tokenbounds.messages.formats.base import Format
from tokenbounds.messages.formats.scaled import ScaledFormat
from tokenbounds.models.pretrained.hadamard import restore_weight

_MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class RotatedFormat(Format):
    """A model whose linear layers are quantized as U · W · V', U and V from a seed.

    Attributes
    ----------
    scaled : ScaledFormat
        What is coded: rotated matrices, and plain ones.
    seed : int
        Of the rotations; each matrix's name gives it rotations of its own.
    plain : tuple of int
        Numbers of the matrices that are not rotated (embeddings), counted among matrices.
    """

    scaled: ScaledFormat
    seed: int
    plain: tuple[int, ...]
    kind: ClassVar[str] = "rotated"
    part_kinds: ClassVar[tuple[str, ...]] = ("scales", "symbols")

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name, rotated back by sums and differences in a fixed order."""
        values = self.scaled.dequantize()
        for index, name in enumerate(self.scaled.matrices):
            if index not in self.plain:
                shape = self.scaled.shapes[name]
                plane = values[name].reshape(self.scaled.matrices[name].codes.shape)
                values[name] = restore_weight(plane, self.seed, name).reshape(shape)
        return values

    def header(self) -> Header:
        """The seed of the rotations, and which matrices have none."""
        return {"kind": self.kind, "seed": self.seed, "plain": list(self.plain)}

    def symbols(self) -> list[np.ndarray]:
        """All codes."""
        return self.scaled.symbols()

    def to_parts(self, coder: Coder) -> list[Part]:
        """As of `scaled`: rotations are not in the message."""
        return self.scaled.to_parts(coder)

    @classmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Decode the parts that `to_parts` wrote."""
        settings = message.header["quantizer"]
        seed, plain = settings.get("seed"), settings.get("plain")
        if type(seed) is not int or not 0 <= seed <= _MAX_SEED:
            raise MessageError("the rotations' seed is not an integer below 2^63.")
        if not isinstance(plain, list) or any(type(index) is not int for index in plain):
            raise MessageError("the list of matrices that are not rotated holds more than integers.")
        return cls(ScaledFormat.from_message(message, shapes, coder), seed, tuple(plain))
