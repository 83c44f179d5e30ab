"""Counting (order+1)-grams of a corpus as a stream, and the files that hold the counts.

A lower order's counts are sums of a higher order's, so only the highest order is stored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenbounds.config import MarkovModel
from tokenbounds.corpus.shards import Corpus
from tokenbounds.errors import ModelError, TokenboundsError
from tokenbounds.files import atomic_path, canonical_json, read_json, sha256_bytes, write_json
from tokenbounds.models.markov.grams import MarkovCard, check_codes, gram_codes, sum_by_code
from tokenbounds.seals import BLANK_SEAL, SEAL_KEY, seal, sha256_of_sealed

COUNTS_NAME = "counts.arrow"
CARD_NAME = "card.json"
_CHUNK_TOKENS = 1 << 22
_SCHEMA = pa.schema([pa.field("gram", pa.uint64()), pa.field("count", pa.int64())])


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
        codes = gram_codes(tokens, card.order, card)  # one for each token of the document
        for start in range(0, len(codes), _CHUNK_TOKENS):
            chunk.append(codes[start : start + _CHUNK_TOKENS])
            size += len(chunk[-1])
            if size >= _CHUNK_TOKENS:
                tally.add(np.concatenate(chunk))
                chunk, size = [], 0
    if chunk:
        tally.add(np.concatenate(chunk))
    save_counts(Path(directory), card, *tally.total())


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


def save_counts(directory: Path, card: MarkovCard, grams: np.ndarray, counts: np.ndarray) -> None:
    """Write counts.arrow and card.json atomically."""
    schema = _SCHEMA.with_metadata({SEAL_KEY: BLANK_SEAL, "card_sha256": _card_sha256(card)})
    table = pa.table({"gram": pa.array(grams), "count": pa.array(counts)}, schema=schema)
    with atomic_path(directory / COUNTS_NAME) as path:
        with pa.ipc.new_file(str(path), schema) as writer:
            writer.write_table(table)
        seal(path)
    write_json(directory / CARD_NAME, card.to_dict())


def _card_sha256(card: MarkovCard) -> str:
    return sha256_bytes(canonical_json(card.to_dict()).encode())


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
        sha256_of_sealed(path, ModelError, "Fit the chain again.")
        with pa.ipc.open_file(pa.memory_map(str(path), "r")) as reader:
            table = reader.read_all()
    except (OSError, pa.ArrowException) as error:
        raise ModelError(f"cannot read {path}: {error}. Fit the chain again.") from error
    except TokenboundsError as error:
        raise ModelError(f"{directory}: {error}") from error
    if table.schema != _SCHEMA:
        raise ModelError(f"{path} does not have the columns gram and count. Fit the chain again.")
    if (table.schema.metadata or {}).get(b"card_sha256", _card_sha256(card).encode()) != _card_sha256(card).encode():
        raise ModelError(f"{directory / CARD_NAME} is not the card that {path} was written with. Fit the chain again.")
    grams = table.column("gram").to_numpy()
    counts = table.column("count").to_numpy()
    if len(grams) == 0 or np.any(grams[1:] <= grams[:-1]) or counts.min() < 1:
        raise ModelError(f"{path} holds no ordered table of counts. Fit the chain again.")
    if int(grams[-1]) >= card.vocabulary_size ** (card.order + 1):
        raise ModelError(f"{path} holds a gram outside the vocabulary of {card.vocabulary_size}. Fit the chain again.")
    return card, grams, counts
