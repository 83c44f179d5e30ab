"""A corpus by reference: rows drawn from pinned files, and nothing else of them (docs/reference.md).

The corpus that is certified is all rows of all files, each cut after a number of tokens. What is tokenized is a draw:
rows chosen uniformly and with replacement by a seed, in ascending order; a row drawn twice appears twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokenbounds.config import ReferenceSource
from tokenbounds.corpus.pins import Pins, pins_digest, read_pins, read_rows
from tokenbounds.draws import uniform_integers
from tokenbounds.errors import CorpusError
from tokenbounds.parquet_pages import check_pages

_SEED_BYTES = 6  # whole numbers that every reader of JSON keeps exactly


@dataclass(frozen=True)
class ReferenceEntry:
    """What a manifest says of a corpus by reference.

    Attributes
    ----------
    file, sha256
        The list of pinned files, next to the manifest.
    rows
        D: documents of the whole corpus.
    max_tokens
        Tokens after which a document is cut.
    seed
        Of the draw.
    """

    file: str
    sha256: str
    rows: int
    max_tokens: int
    seed: int


def reference_seed(source: ReferenceSource) -> int:
    """The seed of a source's draw: its own, or the one that follows from the list of files."""
    if source.seed is not None:
        return source.seed
    text = f"tokenbounds reference\n{pins_digest(source.pins)}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_SEED_BYTES], "big")


def drawn_rows(rows: int, documents: int, seed: int) -> NDArray[np.int64]:
    """The rows that a seed draws, in ascending order [documents]: i.i.d. draws, whose order does not matter."""
    return np.sort(uniform_integers(rows, documents, seed))


def row_names(pins: Pins, rows: Sequence[int] | NDArray[np.int64]) -> Iterator[tuple[int, int, str]]:
    """For each row of the whole corpus [n], ascending: its file, its number there, and its name."""
    ends = np.cumsum([file.rows for file in pins.files])  # [files]
    for row in rows:
        file = int(np.searchsorted(ends, row, side="right"))
        inside = int(row) - (int(ends[file - 1]) if file else 0)
        yield file, inside, f"{pins.files[file].path}:{inside}"


def read_drawn(source: ReferenceSource) -> Iterator[tuple[str, str]]:
    """Yield name and text of every drawn row, in ascending order; a row drawn twice comes twice.

    Raises
    ------
    CorpusError
        If the list or a file of it cannot be read, or a file is not the pinned one.
    """
    pins = read_pins(source.pins)
    rows = drawn_rows(pins.rows, source.documents, reference_seed(source))
    for file, group in groupby(row_names(pins, rows), key=lambda each: each[0]):
        named = [(inside, name) for _, inside, name in group]
        distinct = sorted({inside for inside, _ in named})
        texts = read_rows(pins.files[file], pins.kind, distinct, source.field, Path(source.pins).parent)
        at, text = -1, ""
        for inside, name in named:
            if inside != at:
                at, text = inside, next(texts)
            yield name, text


def check_drawn(entry: ReferenceEntry, folder: Path, documents_file: Path) -> None:
    """Draw the rows again, and compare them with the documents of a corpus.

    Raises
    ------
    CorpusError
        If the list is not the manifest's, or the documents are not the rows that the seed draws.
    """
    path = folder / entry.file
    if not path.is_file() or pins_digest(path) != entry.sha256:
        raise CorpusError(f"{path} is missing or differs from its manifest. Tokenize the corpus again.")
    pins, table = read_pins(path), _read_documents(documents_file)
    rows = drawn_rows(pins.rows, table.num_rows, entry.seed)
    names = [name for _, _, name in row_names(pins, rows)]
    if pins.rows != entry.rows or table["name"].to_pylist() != names:
        raise CorpusError(f"{documents_file} does not hold the rows that seed {entry.seed} draws. Tokenize again.")
    if table.num_rows and max(table["tokens"].to_pylist()) > entry.max_tokens:
        raise CorpusError(f"{documents_file} holds a document of more than {entry.max_tokens} tokens. Tokenize again.")


def drawn_lengths(documents_file: Path) -> NDArray[np.int64]:
    """Tokens of every drawn document [documents], from the corpus's table of documents.

    Raises
    ------
    CorpusError
        If it cannot be read.
    """
    lengths: NDArray[np.int64] = _read_documents(documents_file)["tokens"].to_numpy().astype(np.int64, copy=False)
    return lengths


def _read_documents(documents_file: Path) -> pa.Table:
    """Names and numbers of tokens."""
    check_pages(documents_file, CorpusError)
    try:
        return pq.read_table(documents_file, columns=["name", "tokens"])
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{documents_file} cannot be read ({error}). Tokenize the corpus again.") from error
