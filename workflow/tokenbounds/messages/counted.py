"""Messages of models that count, Markov chains and online references: decoding them does not load torch."""

from __future__ import annotations

from tokenbounds.errors import MessageError
from tokenbounds.messages.container import Message
from tokenbounds.messages.formats.markov import decode_chain
from tokenbounds.messages.formats.online import decode_online
from tokenbounds.messages.smoothing_head import has_head
from tokenbounds.models.markov.chain import MarkovChain
from tokenbounds.models.online.card import OnlineCard, is_online


def is_markov(message: Message) -> bool:
    """Whether the message holds a Markov chain."""
    card = message.header.get("model")
    return isinstance(card, dict) and card.get("family") == "markov"


def decode_counted(message: Message) -> MarkovChain | OnlineCard | None:
    """The chain, or the card of the online reference, that a message holds; None for any other model.

    Raises
    ------
    MessageError, ModelError
        If the message is damaged or hostile.
    """
    if is_markov(message):
        if has_head(message):
            raise MessageError("a Markov chain has no hidden state, but the message holds a smoothing head.")
        return decode_chain(message)
    return decode_online(message) if is_online(message.header) else None
