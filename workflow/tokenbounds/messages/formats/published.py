"""The codes of a published QuIP# checkpoint, unchanged: nothing is rounded, nothing is lost.

The message holds the lattice codes of each coded layer with the published scales and signs, and every other tensor
exactly. The decoder computes the same float32 weights from them as the import did.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from tokenbounds.errors import MessageError, ModelError
from tokenbounds.messages.coding.lattice_codes import (
    Codes,
    code_bytes,
    encode_lattice_codes,
    open_lattice_codes,
    plane_count,
)
from tokenbounds.messages.coding.lossless import decode_floats, encode_floats, float_bytes
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import CodeSequence, Shape
from tokenbounds.messages.container import Header, Message, Part
from tokenbounds.messages.formats.base import Format
from tokenbounds.models.pretrained.lattice_layers import (
    LatticeLayer,
    PublishedCodes,
    Slot,
    check_sizes,
    slots_of,
)

_LEAST_SCALE, _GREATEST_SCALE = 2.0**-20, 2.0**20


@dataclass(frozen=True)
class PublishedFormat(Format):
    """A QuIP# checkpoint.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        All tensors in the model's order.
    codes : PublishedCodes
    others : dict of str to float32 array
        What is not coded.
    """

    shapes: dict[str, Shape]
    codes: PublishedCodes
    others: dict[str, np.ndarray]
    kind: ClassVar[str] = "published"
    part_kinds: ClassVar[tuple[str, ...]] = ("values", "symbols")

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name."""
        values = dict(self.iter_values())
        return {name: values[name] for name in self.shapes}

    def iter_values(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the pieces of each coded layer, then all other tensors."""
        for name, slot in slots_of(self.shapes).items():
            yield from self.codes.layers[name].dense(slot, self.codes.bits, self.codes.residual_scale).items()
        yield from self.others.items()

    def header(self) -> Header:
        """Bits of the codebook, the divisor of residual points, and whether inputs are rescaled."""
        rescaled = any(layer.rescale is not None for layer in self.codes.layers.values())
        settings = {"bits": self.codes.bits, "residual_scale": self.codes.residual_scale, "rescaled": rescaled}
        return {"kind": self.kind, **settings}

    def symbols(self) -> Sequence[np.ndarray]:
        """Bytes of the codes of each layer (under its first weight), and of the other tensors' floats."""
        names, slots = list(self.shapes), slots_of(self.shapes)
        first = {slot.weights[0]: name for name, slot in slots.items()}
        later = {weight for slot in slots.values() for weight in slot.weights[1:]}

        def make(index: int) -> np.ndarray:
            name = names[index]
            if name in first:
                layer = self.codes.layers[first[name]]
                return code_bytes((layer.codes, layer.residuals), self.codes.bits)
            return np.zeros((0, 1), dtype=np.uint8) if name in later else float_bytes(self.others[name])

        planes = plane_count(self.codes.bits)
        sizes = {weight: (math.prod(_code_shape(slots[name])), planes) for weight, name in first.items()}
        sizes |= dict.fromkeys(later, (0, 1)) | {name: float_bytes(each).shape for name, each in self.others.items()}
        return CodeSequence([sizes[name] for name in names], make)

    def to_parts(self, coder: Coder) -> list[Part]:
        """Lossless floats in `values`: scales of layers, then other tensors. Codes in `symbols`, plane by plane."""
        layers = self.codes.layers
        scales = [array for layer in layers.values() for array in _scales(layer)]
        symbols = encode_lattice_codes(
            lambda: ((layer.codes, layer.residuals) for layer in layers.values()), self.codes.bits
        )
        return [Part("values", encode_floats([*scales, *self.others.values()])), Part("symbols", symbols)]

    @classmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Decode the parts that `to_parts` wrote."""
        opened = _Opened.read(message, shapes)
        codes = PublishedCodes(dict(opened.layers), opened.bits, opened.residual_scale)
        return cls(dict(shapes), codes, opened.others)

    @classmethod
    def stream_values(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the pieces of each coded layer, decoded one at a time, then all other tensors."""
        opened = _Opened.read(message, shapes)
        if opened.header != message.header["quantizer"]:
            raise MessageError("the message's quantizer settings are not what its quantizer writes.")
        slots = slots_of(shapes)
        for name, layer in opened.layers:
            yield from layer.dense(slots[name], opened.bits, opened.residual_scale).items()
        yield from opened.others.items()


@dataclass(frozen=True)
class _Opened:
    """A message whose layers are decoded when they are taken, in order, once.

    Attributes
    ----------
    header
        What `PublishedFormat.header` gives.
    bits, residual_scale
        See `PublishedCodes`.
    layers : iterator of (str, LatticeLayer)
    others : dict of str to float32 array
    """

    header: Header
    bits: int
    residual_scale: float
    layers: Iterator[tuple[str, LatticeLayer]]
    others: dict[str, np.ndarray]

    @classmethod
    def read(cls, message: Message, shapes: Mapping[str, Shape]) -> Self:
        """Check settings and sizes, and decode all floats; MessageError if they are damaged."""
        bits, residual_scale, rescaled = _settings(message.header.get("quantizer"))
        slots = _checked_slots(shapes)
        coded = {weight for slot in slots.values() for weight in slot.weights}
        others = [name for name in shapes if name not in coded]
        lengths = [length for slot in slots.values() for length in _scale_lengths(slot, rescaled)]
        data = message.content("values")
        floats, end = decode_floats(data, 0, [*lengths, *(math.prod(shapes[name]) for name in others)])
        if end != len(data):
            raise MessageError("bytes are left over after the lossless values.")
        data = message.content("symbols")
        codes, end = open_lattice_codes(data, 0, [_code_shape(slot) for slot in slots.values()], bits)
        if end != len(data):
            raise MessageError("bytes are left over after the codes.")
        scales = iter(floats[: len(lengths)])
        layers = ((name, _layer(pair, scales, rescaled)) for name, pair in zip(slots, codes, strict=True))
        kept = zip(others, floats[len(lengths) :], strict=True)
        header = {"kind": PublishedFormat.kind, "bits": bits, "residual_scale": residual_scale, "rescaled": rescaled}
        return cls(header, bits, residual_scale, layers, {name: each.reshape(shapes[name]) for name, each in kept})


def _code_shape(slot: Slot) -> tuple[int, int]:
    return slot.outputs, slot.inputs // 8


def _settings(settings: Any) -> tuple[int, float, bool]:
    found = settings if isinstance(settings, dict) else {}
    values: list[Any] = [found.get(key) for key in ("bits", "residual_scale", "rescaled")]
    bits, scale, rescaled = values
    fits = type(bits) is int and bits in (2, 3, 4) and type(scale) is float and type(rescaled) is bool
    if not fits or not _LEAST_SCALE <= scale <= _GREATEST_SCALE:
        raise MessageError("the message's settings of a published checkpoint are damaged.")
    return bits, scale, rescaled


def _checked_slots(shapes: Mapping[str, Shape]) -> dict[str, Slot]:
    try:
        slots = slots_of(shapes)
        for name, slot in slots.items():
            check_sizes(name, slot)
    except (ModelError, KeyError, IndexError) as error:
        raise MessageError(f"the model's layers cannot be those of a QuIP# checkpoint: {error}") from error
    if not slots:
        raise MessageError("the model has no layers that a QuIP# checkpoint could hold.")
    return slots


def _scales(layer: LatticeLayer) -> list[np.ndarray]:
    arrays = [layer.inputs, layer.outputs, layer.scale.reshape(1), layer.pieces]
    return arrays if layer.rescale is None else [*arrays, layer.rescale]


def _scale_lengths(slot: Slot, rescaled: bool) -> list[int]:
    return [slot.inputs, slot.outputs, 1, len(slot.weights), *([slot.inputs] if rescaled else [])]


def _layer(codes: Codes, values: Iterator[np.ndarray], rescaled: bool) -> LatticeLayer:
    inputs, outputs, scale, pieces = (next(values) for _ in range(4))
    rescale = next(values) if rescaled else None
    return LatticeLayer(*codes, inputs, outputs, scale.reshape(()), pieces, rescale)
