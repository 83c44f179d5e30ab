"""What a decoder must know about an online reference: everything else it learns along the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenbounds.errors import ModelError
from tokenbounds.files import write_json

FEWEST_TABLE_BITS, MOST_TABLE_BITS = 12, 26
LARGEST_VOCABULARY, LONGEST_ORDER, DEFAULT_ORDER = 1 << 20, 8, 6
_MIXING, _NGRAMS = "byte_mixing_2", "ngrams_1"  # if any prediction changes, the method gets another name


@dataclass(frozen=True)
class OnlineCard:
    """A predictor with tables of 2^`table_bits` entries for each context.

    `order` is that of adaptive n-grams; a predictor without one mixes contexts of bytes.
    """

    table_bits: int
    vocabulary_size: int = 256
    order: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON values, with the family's name."""
        return {
            "family": "online",
            "method": _MIXING if self.order is None else _NGRAMS,
            "table_bits": self.table_bits,
            "vocabulary_size": self.vocabulary_size,
            **({} if self.order is None else {"order": self.order}),
        }

    @classmethod
    def from_dict(cls, raw: Any) -> OnlineCard:
        """Check a card that may come from anywhere.

        Raises
        ------
        ModelError
            If it is not the card of an online reference that this program can run.
        """
        keys = ("table_bits", "vocabulary_size", "order")
        found = [raw.get(key) for key in keys] if isinstance(raw, dict) else [None, None, None]
        # JSON's true is Python's 1, which no number here may be.
        if any(type(number) is not int for number in found if number is not None) or None in found[:2]:
            raise ModelError(_describe("it names no table_bits and vocabulary_size as integers."))
        card = cls(*found)
        if raw != card.to_dict():
            raise ModelError(_describe(f"its method is not {card.to_dict()['method']}, or it has further keys."))
        if card.order is None and card.vocabulary_size != 256:
            raise ModelError(_describe(f"{_MIXING} predicts 256 tokens."))
        if fault := check_sizes(card.vocabulary_size, card.order or DEFAULT_ORDER, card.table_bits):
            raise ModelError(_describe(fault))
        return card


def _describe(fault: str) -> str:
    return f"this is not the card of an online reference that this program can run: {fault}"


def check_sizes(vocabulary_size: int, order: int, table_bits: int) -> str:
    """What is wrong with the sizes of a reference; empty if nothing is."""
    if not FEWEST_TABLE_BITS <= table_bits <= MOST_TABLE_BITS:
        return f"tables of 2^{table_bits} entries; choose {FEWEST_TABLE_BITS} to {MOST_TABLE_BITS} bits."
    if not 1 <= order <= LONGEST_ORDER:
        return f"contexts of up to {order} tokens; choose an order from 1 to {LONGEST_ORDER}."
    if not 2 <= vocabulary_size <= LARGEST_VOCABULARY:
        return f"a vocabulary of {vocabulary_size} tokens; choose 2 to {LARGEST_VOCABULARY}."
    return ""


def is_online(header: dict[str, Any]) -> bool:
    """Whether a message with this header names an online reference."""
    card = header.get("model")
    return isinstance(card, dict) and card.get("family") == "online"


def name_online(card: OnlineCard, path: Path | str) -> None:
    """Write the card of an online reference: the reference is nothing else before it has read anything."""
    write_json(path, card.to_dict())
