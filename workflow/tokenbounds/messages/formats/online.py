"""An online reference: the card in the header says everything, so there are no parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from tokenbounds.errors import MessageError, ModelError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.container import Message
from tokenbounds.messages.formats.base import EmptyFormat, Format
from tokenbounds.models.online.card import OnlineCard


@dataclass(frozen=True)
class OnlineFormat(EmptyFormat):
    """No values: an online reference learns everything from the corpus that it predicts."""

    kind: ClassVar[str] = "no_values"

    @classmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Check that the message holds a card and nothing else.

        Raises
        ------
        MessageError
            If it has other settings or any part.
        """
        found = cls()
        if message.header.get("quantizer") != found.header() or message.parts:
            raise MessageError("a message of an online reference must hold its card and nothing else.")
        return found


def decode_online(message: Message) -> OnlineCard:
    """The online reference that a message names.

    Raises
    ------
    MessageError
        If the message holds anything else.
    """
    if set(message.header) != {"model", "quantizer", "coder"}:
        raise MessageError("the header needs exactly the keys coder, model, quantizer.")
    OnlineFormat.from_message(message, {}, message.header["coder"])
    try:
        return OnlineCard.from_dict(message.header["model"])
    except ModelError as error:
        raise MessageError(str(error)) from error
