"""No values: the message names a model by its hash, and decodes to that model unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.container import Message
from tokenbounds.messages.formats.base import EmptyFormat, Format


@dataclass(frozen=True)
class ReferenceFormat(EmptyFormat):
    """No values: the hash is in the part that holds all hashes."""

    kind: ClassVar[str] = "reference"

    @classmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Check that the message holds its hash and nothing else.

        Raises
        ------
        MessageError
            If it has an adapter, other settings, or any part but the hash.
        """
        card = message.header.get("model")
        is_plain = isinstance(card, dict) and set(card) == {"family", "vocabulary_size"}
        found = cls()
        if message.header.get("quantizer") != found.header() or not is_plain:
            raise MessageError("a message that only names a model must hold its hash and nothing else.")
        if [part.kind for part in message.parts] != ["side_information"]:
            raise MessageError("a message that only names a model must hold its hash and nothing else.")
        return found
