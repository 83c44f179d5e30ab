"""The card of a Markov chain, and (order+1)-grams as numbers.

An (order+1)-gram is one number: its tokens are the digits of a base-V number, the oldest token first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenbounds.errors import ModelError

MAX_ORDER = 6
MAX_VOCABULARY = 1 << 20


@dataclass(frozen=True)
class MarkovCard:
    """What a decoder must know about a chain besides its counts."""

    order: int
    vocabulary_size: int
    start_id: int

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON values, with the family's name."""
        return {
            "family": "markov",
            "order": self.order,
            "vocabulary_size": self.vocabulary_size,
            "start_id": self.start_id,
        }

    @classmethod
    def from_dict(cls, raw: Any) -> MarkovCard:
        """Check a card that may come from anywhere.

        Raises
        ------
        ModelError
            If it is not the card of a chain this program can hold.
        """
        keys = {"family", "order", "vocabulary_size", "start_id"}
        if not isinstance(raw, dict) or set(raw) != keys or raw["family"] != "markov":
            raise ModelError("this is not the card of a Markov chain: its keys or its family differ.")
        card = cls(raw["order"], raw["vocabulary_size"], raw["start_id"])
        if any(type(number) is not int for number in (card.order, card.vocabulary_size, card.start_id)):
            raise ModelError("a Markov chain's order, vocabulary_size and start_id must be whole numbers.")
        if not (0 <= card.order <= MAX_ORDER and 1 <= card.vocabulary_size <= MAX_VOCABULARY):
            raise ModelError(f"order {card.order} or vocabulary {card.vocabulary_size} of the chain is out of range.")
        if not 0 <= card.start_id < card.vocabulary_size:
            raise ModelError(f"start_id {card.start_id} is outside the vocabulary of {card.vocabulary_size}.")
        check_codes(card.vocabulary_size, card.order)
        return card


def check_codes(vocabulary_size: int, order: int) -> None:
    """Refuse chains whose (order+1)-grams are too many to number with 64 bits.

    Raises
    ------
    ModelError
        If V^(order+1) exceeds 2^64.
    """
    if vocabulary_size ** (order + 1) > 1 << 64:
        highest = max(k for k in range(MAX_ORDER + 1) if vocabulary_size ** (k + 1) <= 1 << 64)
        raise ModelError(
            f"a Markov chain of order {order} over {vocabulary_size} tokens has more than 2^64 contexts. "
            f"The highest order possible with this vocabulary is {highest}."
        )


def gram_codes(tokens: np.ndarray, order: int, card: MarkovCard) -> np.ndarray:
    """Number the (order+1)-gram that ends at each token of one document.

    Parameters
    ----------
    tokens : int[n]
        A whole document.
    order : int
        Tokens of context; before the document's beginning they are `card.start_id`.

    Returns
    -------
    uint64[n]
    """
    padded = np.full(len(tokens) + order, card.start_id, dtype=np.uint64)
    padded[order:] = tokens
    codes = padded[: len(tokens)].copy()
    for step in range(1, order + 1):
        codes *= np.uint64(card.vocabulary_size)
        codes += padded[step : step + len(tokens)]
    return codes


def sum_by_code(codes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add up the counts of equal codes; the codes come back sorted, each once."""
    if not len(codes):
        return codes, counts
    order = np.argsort(codes, kind="stable")
    codes, counts = codes[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    return codes[first], np.add.reduceat(counts, first)
