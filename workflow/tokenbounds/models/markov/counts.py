"""Counting (order+1)-grams of a corpus as a stream, and the files that hold the counts.

An (order+1)-gram is one number: its tokens are the digits of a base-V number, the oldest token first. A lower order's
counts are the sums over the leading digits, so only the highest order is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tokenbounds.config import MarkovModel
from tokenbounds.corpus.shards import Corpus
from tokenbounds.errors import ModelError, TokenboundsError
from tokenbounds.files import atomic_path, read_json, write_json

COUNTS_NAME = "counts.arrow"
CARD_NAME = "card.json"
MAX_ORDER = 6
MAX_VOCABULARY = 1 << 20
_CHUNK_TOKENS = 1 << 22
_SCHEMA = pa.schema([pa.field("gram", pa.uint64()), pa.field("count", pa.int64())])


@dataclass(frozen=True)
class MarkovCard:
    """What a decoder must know of a chain besides its counts."""

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


def fit_markov(spec: MarkovModel, corpus: Corpus, directory: Path | str) -> None:
    """Count a corpus's (order+1)-grams into `directory`: counts.arrow and card.json.

    Memory grows with the number of distinct grams, not with the corpus.

    Raises
    ------
    ModelError
        If the grams cannot be numbered with 64 bits.
    """
    card = MarkovCard(spec.order, corpus.vocabulary_size, corpus.start_id)
    check_codes(card.vocabulary_size, card.order)
    tally = _Tally()
    chunk: list[np.ndarray] = []
    size = 0
    for tokens in corpus.iterate():
        for codes in _pieces(gram_codes(tokens, card.order, card)):
            chunk.append(codes)
            size += len(codes)
            if size >= _CHUNK_TOKENS:
                tally.add(np.concatenate(chunk))
                chunk, size = [], 0
    if chunk:
        tally.add(np.concatenate(chunk))
    save_counts(Path(directory), card, *tally.total())


def _pieces(codes: np.ndarray) -> list[np.ndarray]:
    return [codes[start : start + _CHUNK_TOKENS] for start in range(0, len(codes), _CHUNK_TOKENS)]


class _Tally:
    """Sorted runs of (gram, count), merged when the later ones together outgrow the first."""

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, codes: np.ndarray) -> None:
        grams, counts = np.unique(codes, return_counts=True)
        self._runs.append((grams, counts.astype(np.int64)))
        if sum(len(run[0]) for run in self._runs[1:]) >= len(self._runs[0][0]):
            self._runs = [self.total()]

    def total(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._runs:
            return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
        if len(self._runs) == 1:
            return self._runs[0]
        return sum_by_code(
            np.concatenate([run[0] for run in self._runs]), np.concatenate([run[1] for run in self._runs])
        )


def sum_by_code(codes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add up the counts of equal codes; the codes come back sorted, each once."""
    if not len(codes):
        return codes, counts
    order = np.argsort(codes, kind="stable")
    codes, counts = codes[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    return codes[first], np.add.reduceat(counts, first)


def save_counts(directory: Path, card: MarkovCard, grams: np.ndarray, counts: np.ndarray) -> None:
    """Write counts.arrow and card.json atomically."""
    table = pa.table({"gram": pa.array(grams), "count": pa.array(counts)}, schema=_SCHEMA)
    with atomic_path(directory / COUNTS_NAME) as path, pa.ipc.new_file(str(path), _SCHEMA) as writer:
        writer.write_table(table)
    write_json(directory / CARD_NAME, card.to_dict())


def load_counts(directory: Path | str) -> tuple[MarkovCard, np.ndarray, np.ndarray]:
    """Read what `fit_markov` wrote: the card, grams uint64[n] in ascending order, counts int64[n].

    Raises
    ------
    ModelError
        If a file is missing or damaged.
    """
    directory = Path(directory)
    path = directory / COUNTS_NAME
    try:
        card = MarkovCard.from_dict(read_json(directory / CARD_NAME))
        with pa.ipc.open_file(pa.memory_map(str(path), "r")) as reader:
            table = reader.read_all()
    except (OSError, pa.ArrowException) as error:
        raise ModelError(f"cannot read {path}: {error}. Fit the chain again.") from error
    except TokenboundsError as error:
        raise ModelError(f"{directory}: {error}") from error
    if table.schema != _SCHEMA:
        raise ModelError(f"{path} does not have the columns gram and count. Fit the chain again.")
    grams = table.column("gram").to_numpy()
    counts = table.column("count").to_numpy()
    if len(grams) == 0 or np.any(grams[1:] <= grams[:-1]) or counts.min() < 1:
        raise ModelError(f"{path} holds no ordered table of counts. Fit the chain again.")
    if int(grams[-1]) >= card.vocabulary_size ** (card.order + 1):
        raise ModelError(f"{path} holds a gram outside the vocabulary of {card.vocabulary_size}. Fit the chain again.")
    return card, grams, counts
