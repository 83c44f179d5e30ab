"""Row and column steps in a rotated basis: linear layers between two seeded random rotations (QuIP)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape, plane_shape
from tokenbounds.messages.container import Header, Message, Part
from tokenbounds.messages.formats.base import Format
from tokenbounds.messages.formats.grid import GridTensors
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
                values[name] = _restore(name, values[name], self.seed)
        return values

    def header(self) -> Header:
        """The seed of the rotations, and which matrices have none."""
        return {"kind": self.kind, "seed": self.seed, "plain": list(self.plain)}

    def symbols(self) -> Sequence[np.ndarray]:
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
        return cls(ScaledFormat.from_message(message, shapes, coder), *_read_settings(message))

    @classmethod
    def stream_values(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the tensors, decoded and rotated back one at a time."""
        seed, plain = _read_settings(message)
        cls(ScaledFormat({}, {}, GridTensors({}, {})), seed, plain).check_header(message)
        matrices = [name for name, shape in shapes.items() if len(shape) >= 2]
        rotated = {name for index, name in enumerate(matrices) if index not in plain}
        for name, values in ScaledFormat.stream_scaled(message, shapes, coder):
            yield name, _restore(name, values, seed) if name in rotated else values


def _restore(name: str, values: np.ndarray, seed: int) -> np.ndarray:
    """A matrix, rotated back."""
    return restore_weight(values.reshape(plane_shape(values.shape)), seed, name).reshape(values.shape)


def _read_settings(message: Message) -> tuple[int, tuple[int, ...]]:
    """The rotations' seed, and the numbers of the matrices that are not rotated; MessageError if they are damaged."""
    settings = message.header["quantizer"]
    seed, plain = settings.get("seed"), settings.get("plain")
    if type(seed) is not int or not 0 <= seed <= _MAX_SEED:
        raise MessageError("the rotations' seed is not an integer below 2^63.")
    if not isinstance(plain, list) or any(type(index) is not int for index in plain):
        raise MessageError("the list of matrices that are not rotated holds more than integers.")
    return seed, tuple(plain)
