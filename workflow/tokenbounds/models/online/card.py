"""What a decoder must know about an online reference: everything else it learns along the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenbounds.errors import ModelError
from tokenbounds.files import write_json

FEWEST_TABLE_BITS, MOST_TABLE_BITS = 12, 26
_METHOD = "byte_mixing_2"  # if any prediction changes, the method gets another name


@dataclass(frozen=True)
class OnlineCard:
    """A context-mixing predictor of bytes with tables of 2^`table_bits` entries for each context."""

    table_bits: int
    vocabulary_size: int = 256

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON values, with the family's name."""
        return {
            "family": "online",
            "method": _METHOD,
            "table_bits": self.table_bits,
            "vocabulary_size": self.vocabulary_size,
        }

    @classmethod
    def from_dict(cls, raw: Any) -> OnlineCard:
        """Check a card that may come from anywhere.

        Raises
        ------
        ModelError
            If it is not the card of an online reference that this program can run.
        """
        bits = raw.get("table_bits") if isinstance(raw, dict) else None
        if type(bits) is not int or not FEWEST_TABLE_BITS <= bits <= MOST_TABLE_BITS or raw != cls(bits).to_dict():
            raise ModelError(
                f"this is not the card of an online reference: it needs the method {_METHOD}, 256 tokens and "
                f"{FEWEST_TABLE_BITS} to {MOST_TABLE_BITS} table_bits."
            )
        return cls(bits)


def is_online(header: dict[str, Any]) -> bool:
    """Whether a message with this header names an online reference."""
    card = header.get("model")
    return isinstance(card, dict) and card.get("family") == "online"


def name_online(card: OnlineCard, path: Path | str) -> None:
    """Write the card of an online reference: the reference is nothing else before it has read anything."""
    write_json(path, card.to_dict())
