"""What a format is: a model as integers that the coder writes, and the values that they represent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.container import Header, Message, Part


class Format(ABC):
    """A model's values in one format. How they are found is not its concern: see `compression.methods`.

    Attributes
    ----------
    kind
        Its name in the header of a message.
    part_kinds
        Of the parts that hold its values, one of each.
    holds_values
        Whether there are any; a message without any decodes to the model that it names.
    """

    kind: ClassVar[str]
    part_kinds: ClassVar[tuple[str, ...]]
    holds_values: ClassVar[bool] = True

    @abstractmethod
    def header(self) -> Header:
        """The `quantizer` entry of the message's header, `kind` among its keys: what the decoder must know first."""

    @abstractmethod
    def to_parts(self, coder: Coder) -> list[Part]:
        """The parts of the message. Names and shapes are not in it: the model's card has them."""

    @classmethod
    @abstractmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Decode what `to_parts` wrote.

        Parameters
        ----------
        message
        shapes
            Of the coded tensors by name, in the model's order.
        coder
        coarse
            The message that this one refines, decoded, if it refines one.

        Raises
        ------
        MessageError
            If the bytes are detectably damaged; nothing else is raised, whatever the bytes.
        """

    @classmethod
    def stream_values(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the tensors of a message that refines no other, by name, each once, in the order of the bytes.

        The values are those of `from_message(…).dequantize()`, and so are the errors, of which some show only at the
        end. Here all codes are decoded first; formats of large models decode a tensor at a time.
        """
        found = cls.from_message(message, shapes, coder)
        found.check_header(message)
        yield from found.iter_values()

    def check_header(self, message: Message) -> None:
        """Refuse a message whose settings are not those that this format would write.

        Raises
        ------
        MessageError
            If there is a difference.
        """
        if self.header() != message.header["quantizer"]:
            raise MessageError("the message's quantizer settings are not what its quantizer writes.")

    def iter_values(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the values that the message represents, tensor by tensor."""
        yield from self.dequantize().items()

    @abstractmethod
    def dequantize(self) -> dict[str, np.ndarray]:
        """The values that the message represents, by tensor, float32: the same bits for encoder and decoder."""

    @abstractmethod
    def symbols(self) -> Sequence[np.ndarray]:
        """The integer codes, one array per tensor, for reports and comparisons.

        Int32, or uint8 [values, bytes] where bytes are coded column by column.
        """


class EmptyFormat(Format):
    """A format without values: its message names a model, and `from_message` checks that it does nothing else."""

    holds_values: ClassVar[bool] = False
    part_kinds: ClassVar[tuple[str, ...]] = ()

    def header(self) -> Header:
        """The kind."""
        return {"kind": self.kind}

    def to_parts(self, coder: Coder) -> list[Part]:
        """None."""
        return []

    def dequantize(self) -> dict[str, np.ndarray]:
        """No values."""
        return {}

    def symbols(self) -> Sequence[np.ndarray]:
        """No codes."""
        return []
