"""QuIP#: rotated weights as points of the E8 lattice, 2 bits per weight, with residual points at 3 and 4 bits.

A linear layer's weight is U' (s · C) V: seeded rotations U and V, a scale s, and lattice points C, eight inputs each.
Embeddings, head and vectors are coded as in `scaled`. The rotations follow from a seed and the layer's name.

References
----------
A. Tseng et al., "QuIP#", 2024, arXiv 2402.04396.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.lattice_codes import (
    Codes,
    code_bytes,
    encode_lattice_codes,
    open_lattice_codes,
    plane_count,
)
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import CodeSequence, Shape
from tokenbounds.messages.container import Header, Message, Part
from tokenbounds.messages.formats.base import Format
from tokenbounds.messages.formats.grid import GridTensors
from tokenbounds.messages.formats.scaled import ScaledFormat
from tokenbounds.models.families import FAMILIES
from tokenbounds.models.pretrained.e8p import SIZE
from tokenbounds.models.pretrained.hadamard import restore_weight
from tokenbounds.models.pretrained.lattice_layers import lattice_values

# Factor that residuals are multiplied by before they are rounded to the second codebook: the best for Gaussian values.
RESIDUAL_SCALES = {2: 1.0, 3: 2.04, 4: 3.45}
_ENDINGS = {end for family in FAMILIES.values() for role in ("attention", "mlp") for end in family.layers[role]}
_LINEAR = tuple(f".{end}.weight" for end in _ENDINGS)
_LEAST_SCALE, _GREATEST_SCALE = np.float32(2.0**-60), np.float32(2.0**60)


def linear_names(shapes: Mapping[str, Shape]) -> list[str]:
    """The names of the linear layers' weights, in order."""
    return [name for name, shape in shapes.items() if len(shape) == 2 and name.endswith(_LINEAR)]


def round_scale(scale: float) -> np.float32:
    """The nearest positive float32 whose lower 16 bits are zero, between 2^-60 and 2^60."""
    inside = np.clip(np.float32(scale), _LEAST_SCALE, _GREATEST_SCALE)
    bits = inside.view(np.uint32).astype(np.uint64) + 0x8000
    return np.uint32(bits & 0xFFFF0000).view(np.float32)


@dataclass(frozen=True)
class LatticeMatrix:
    """A linear layer's weight as lattice codes.

    Attributes
    ----------
    codes : uint16 array [outputs, ⌈inputs / 8⌉], and the same of residuals or None
    scale : float32
        As `round_scale` gives it.
    """

    codes: Codes
    scale: np.float32

    def values(self, shape: Shape, settings: Settings, name: str) -> np.ndarray:
        """The weight, float32, in the shape of the parameter."""
        inputs = shape[0] if settings.transposed else shape[1]
        core = lattice_values(*self.codes, settings.bits, RESIDUAL_SCALES[settings.bits])[:, :inputs] * self.scale
        weight = restore_weight(core, settings.seed, name)
        return np.ascontiguousarray(weight.T) if settings.transposed else weight


@dataclass(frozen=True)
class Settings:
    """What the header says: bits of the codebook, seed of the rotations, whether weights are [inputs, outputs]."""

    bits: int
    seed: int
    transposed: bool

    @classmethod
    def read(cls, header: Any) -> Settings:
        """Check the `quantizer` entry of a header.

        Raises
        ------
        MessageError
            If it is damaged.
        """
        found = header if isinstance(header, dict) else {}
        values: list[Any] = [found.get(key) for key in ("bits", "seed", "transposed")]
        bits, seed, transposed = values
        fits = type(bits) is int and bits in RESIDUAL_SCALES and type(seed) is int and type(transposed) is bool
        if not fits or not 0 <= seed < 1 << 64:
            raise MessageError("the message's settings of lattice quantization are damaged.")
        return cls(bits, seed, transposed)


@dataclass(frozen=True)
class LatticeFormat(Format):
    """A model whose linear layers are lattice codes.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        All tensors in the model's order.
    settings : Settings
    matrices : dict of str to LatticeMatrix
        The linear layers, in the model's order.
    others : ScaledFormat
        All other tensors.
    """

    shapes: dict[str, Shape]
    settings: Settings
    matrices: dict[str, LatticeMatrix]
    others: ScaledFormat
    kind: ClassVar[str] = "quip_sharp"
    part_kinds: ClassVar[tuple[str, ...]] = ("scales", "symbols", "values")

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name."""
        values = dict(self.iter_values())
        return {name: values[name] for name in self.shapes}

    def iter_values(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield lattice layers, then all other tensors."""
        for name, matrix in self.matrices.items():
            yield name, matrix.values(self.shapes[name], self.settings, name)
        yield from self.others.iter_values()

    def header(self) -> Header:
        """Bits, seed and orientation."""
        return {"kind": self.kind, **vars(self.settings)}

    def symbols(self) -> Sequence[np.ndarray]:
        """Bytes of lattice codes, and codes of all other tensors, in the model's order."""
        names, others = list(self.shapes), self.others.symbols()
        numbers = {name: index for index, name in enumerate(self.others.shapes)}

        def make(index: int) -> np.ndarray:
            name = names[index]
            if name in numbers:
                return others[numbers[name]]
            return code_bytes(self.matrices[name].codes, self.settings.bits)

        planes = plane_count(self.settings.bits)
        sizes = {name: math.prod(code_shape(self.shapes[name], self.settings)) for name in self.matrices}
        shapes = [(sizes[name], planes) if name in sizes else self.shapes[name] for name in names]
        return CodeSequence(shapes, make)

    def to_parts(self, coder: Coder) -> list[Part]:
        """Lattice layers in `values`: the upper halves of their scales, then their codes; the rest as in `scaled`."""
        matrices = list(self.matrices.values())
        scales = np.array([matrix.scale for matrix in matrices], dtype=np.float32)
        head = (scales.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
        data = encode_lattice_codes(lambda: (matrix.codes for matrix in matrices), self.settings.bits, head)
        return [*self.others.to_parts(coder), Part("values", data)]

    @classmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Decode the parts that `to_parts` wrote."""
        settings, decoded = _open_matrices(message, shapes)
        matrices = dict(decoded)
        rest = {name: shape for name, shape in shapes.items() if name not in matrices}
        return cls(dict(shapes), settings, matrices, ScaledFormat.from_message(message, rest, coder))

    @classmethod
    def stream_values(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield lattice layers, then all other tensors, decoded one at a time."""
        settings, decoded = _open_matrices(message, shapes)
        cls({}, settings, {}, ScaledFormat({}, {}, GridTensors({}, {}))).check_header(message)
        for name, matrix in decoded:
            yield name, matrix.values(shapes[name], settings, name)
        coded = set(linear_names(shapes))
        yield from ScaledFormat.stream_scaled(
            message, {name: shape for name, shape in shapes.items() if name not in coded}, coder
        )


def code_shape(shape: Shape, settings: Settings) -> tuple[int, int]:
    """Rows and blocks of the codes of a weight of this shape."""
    outputs, inputs = shape[::-1] if settings.transposed else shape
    return outputs, -(-inputs // SIZE)


def _open_matrices(
    message: Message, shapes: Mapping[str, Shape]
) -> tuple[Settings, Iterator[tuple[str, LatticeMatrix]]]:
    """The header's settings, and the lattice layers by name, each decoded when it is taken."""
    settings = Settings.read(message.header.get("quantizer"))
    names = linear_names(shapes)
    data = message.content("values")
    if not names or len(data) < 2 * len(names):
        raise MessageError("the model has no linear layers, or the part of their codes is cut off.")
    halves = np.frombuffer(data[: 2 * len(names)], dtype="<u2").astype(np.uint32)
    scales = (halves << np.uint32(16)).view(np.float32)
    if not np.all((scales >= _LEAST_SCALE) & (scales <= _GREATEST_SCALE)):
        raise MessageError("a scale of lattice codes lies outside [2^-60, 2^60].")
    sizes = [code_shape(shapes[name], settings) for name in names]
    codes, end = open_lattice_codes(data, 2 * len(names), sizes, settings.bits)
    if end != len(data):
        raise MessageError("bytes are left over after the lattice codes.")
    matrices = (LatticeMatrix(*pair) for pair in zip(codes, scales, strict=True))
    return settings, zip(names, matrices, strict=True)
