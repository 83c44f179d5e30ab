"""Quantizers: how a model's values become integers, and the integers values again.

A quantizer is one class, registered under the `kind` of its config row. It offers

- ``Quantized.quantize(spec, tensors)``: round float32 tensors;
- ``to_parts(coder)`` and ``from_message(message, shapes, coder)``: the container's parts and back;
- ``dequantize()``: the float32 tensors that the message stands for, the same bits on either side;
- ``header()``: what of its settings the decoder needs, for the message's header.

Names and shapes are not in the message: the decoder rebuilds them from the model card.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.container import Message, Part
from tokenbounds.messages.formats.codebook import CodebookQuantized
from tokenbounds.messages.formats.lattice import LatticeQuantized
from tokenbounds.messages.formats.published import PublishedQuantized
from tokenbounds.messages.formats.rotated import RotatedQuantized
from tokenbounds.messages.formats.scaled import ScaledQuantized
from tokenbounds.messages.formats.uniform import UniformQuantized


class Quantized(Protocol):
    """A model's tensors, quantized."""

    @classmethod
    def quantize(cls, spec: Any, tensors: Mapping[str, np.ndarray]) -> Self:
        """Round `tensors` (float32, any shapes) as the config row `spec` says."""

    @classmethod
    def from_message(cls, message: Message, shapes: Mapping[str, Shape], coder: Coder) -> Self:
        """Decode; only `MessageError` may escape, whatever the bytes."""

    def to_parts(self, coder: Coder) -> list[Part]:
        """The parts of the message."""

    def header(self) -> dict[str, Any]:
        """The `quantizer` entry of the message's header; has at least `kind`."""

    def dequantize(self) -> dict[str, np.ndarray]:
        """Tensors of float32 by name."""

    def symbols(self) -> list[np.ndarray]:
        """The integer codes, one array a tensor, for reports and comparisons.

        Int32, or uint8 [values, bytes] where bytes are coded column by column.
        """


QUANTIZERS: dict[str, type[Quantized]] = {
    "uniform": UniformQuantized,
    "codebook": CodebookQuantized,
    "scaled": ScaledQuantized,
    "rotated": RotatedQuantized,
    "quip_sharp": LatticeQuantized,
    "published": PublishedQuantized,
}


def quantizer_class(kind: Any) -> type[Quantized]:
    """The class registered for a kind.

    Raises
    ------
    MessageError
        If there is none.
    """
    if not isinstance(kind, str) or kind not in QUANTIZERS:
        raise MessageError(f"unknown quantizer {kind!r:.40}. Known: {', '.join(QUANTIZERS)}.")
    return QUANTIZERS[kind]
