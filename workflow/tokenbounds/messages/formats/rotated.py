"""Row and column steps in a rotated basis: linear layers between two seeded random rotations (QuIP)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.container import Message, Part
from tokenbounds.messages.formats.scaled import ScaledQuantized
from tokenbounds.models.pretrained.hadamard import restore_weight

_MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class RotatedQuantized:
    """A model whose linear layers are quantized as U · W · V', U and V from a seed.

    Attributes
    ----------
    scaled : ScaledQuantized
        What is coded: rotated matrices, and plain ones.
    seed : int
        Of the rotations; each matrix's name gives it rotations of its own.
    plain : tuple of int
        Numbers of the matrices that are not rotated (embeddings), counted among matrices.
    """

    scaled: ScaledQuantized
    seed: int
    plain: tuple[int, ...]

    @classmethod
    def quantize(cls, spec: Any, tensors: Mapping[str, np.ndarray]) -> Self:
        """Round every matrix as it is, none rotated; `messages.posttraining` rotates."""
        scaled = ScaledQuantized.quantize(spec, tensors)
        return cls(scaled, 0, tuple(range(len(scaled.matrices))))

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name, rotated back by sums and differences in a fixed order."""
        values = self.scaled.dequantize()
        for index, name in enumerate(self.scaled.matrices):
            if index not in self.plain:
                shape = self.scaled.shapes[name]
                plane = values[name].reshape(self.scaled.matrices[name].codes.shape)
                values[name] = restore_weight(plane, self.seed, name).reshape(shape)
        return values

    def header(self) -> dict[str, Any]:
        """The seed of the rotations, and which matrices have none."""
        return {"kind": "rotated", "seed": self.seed, "plain": list(self.plain)}

    def symbols(self) -> list[np.ndarray]:
        """All codes."""
        return self.scaled.symbols()

    def to_parts(self, coder: Coder) -> list[Part]:
        """As of `scaled`: rotations are not in the message."""
        return self.scaled.to_parts(coder)

    @classmethod
    def from_message(cls, message: Message, shapes: Mapping[str, Shape], coder: Coder) -> Self:
        """Decode the parts that `to_parts` wrote."""
        settings = message.header["quantizer"]
        seed, plain = settings.get("seed"), settings.get("plain")
        if type(seed) is not int or not 0 <= seed <= _MAX_SEED:
            raise MessageError("the rotations' seed is no integer below 2^63.")
        if not isinstance(plain, list) or any(type(index) is not int for index in plain):
            raise MessageError("the list of matrices that are not rotated holds more than integers.")
        return cls(ScaledQuantized.from_message(message, shapes, coder), seed, tuple(plain))
