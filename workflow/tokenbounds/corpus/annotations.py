"""Annotations: what is known about each token of a corpus, stored next to its shards.

One Parquet file, a row for each token in corpus order. `document` and `position` are those of score files, so that the
two join; row i is the i-th token of the corpus, so streamed scores find their labels without a join.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.corpus.labels import LabelColumn, TokenValues, labels_json
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CorpusError
from tokenbounds.files import sha256_file
from tokenbounds.parquet_pages import check_pages

SCHEMA_VERSION = 2
ANNOTATIONS_NAME = "annotations.parquet"
_REMEDY = "Run `snakemake --forcerun tokenize_corpus`."


def annotations_schema(fields: Sequence[pa.Field]) -> pa.Schema:
    """Arrow schema of annotations that hold the given columns of codes."""
    places = [pa.field("document", pa.int64()), pa.field("position", pa.int64())]
    return pa.schema([*places, *fields], metadata={"schema_version": str(SCHEMA_VERSION)})


class AnnotationWriter:
    """Writes the labels of documents, batch by batch."""

    def __init__(self, path: Path, fields: Sequence[pa.Field]) -> None:
        self._schema = annotations_schema(fields)
        self._names = [field.name for field in fields]
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=["document", *self._names],
            column_encoding={"position": "DELTA_BINARY_PACKED"},
            write_page_checksum=True,
        )

    def write(self, first_document: int, lengths: Sequence[int], labels: Sequence[TokenValues]) -> None:
        """Append the labels of consecutive documents.

        Parameters
        ----------
        first_document
            Number of the first one.
        lengths
            Tokens of each, [documents].
        labels
            Codes of each one's tokens by column, int[its length].
        """
        tokens = np.array(lengths, np.int64)
        # A row for every token, in corpus order: document and position, [sum of lengths] each.
        documents = np.repeat(first_document + np.arange(len(tokens)), tokens)
        positions = np.arange(tokens.sum()) - np.repeat(np.cumsum(tokens) - tokens, tokens)
        columns = [np.concatenate([each[name] for each in labels]) for name in self._names]
        arrays = [
            pa.array(values).cast(field.type)
            for values, field in zip((documents, positions, *columns), self._schema, strict=True)
        ]
        self._writer.write_table(pa.table(arrays, schema=self._schema))

    def close(self, columns: Sequence[LabelColumn] = ()) -> None:
        """Write the footer, with the names of the codes; until then the file is not readable."""
        if columns:
            self._writer.add_key_value_metadata({"labels": labels_json(columns)})
        self._writer.close()


class Annotations:
    """The annotations of a corpus, read on demand: at most two row groups are in memory.

    Attributes
    ----------
    columns
        The columns that the corpus declares to be stored here.
    """

    def __init__(self, path: Path, lengths: npt.NDArray[np.int64], columns: Sequence[LabelColumn]) -> None:
        self.columns = tuple(column for column in columns if column.is_stored)
        self._path = path
        self._first_token = np.concatenate([[0], np.cumsum(lengths)])
        self._cached: dict[int, dict[str, npt.NDArray[Any]]] = {}
        schema = annotations_schema([column.field for column in self.columns])
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"cannot read {path}: {error}. {_REMEDY}") from error
        metadata = self._file.metadata
        version = (metadata.metadata or {}).get(b"schema_version", b"none").decode("utf-8", "replace")
        if version != str(SCHEMA_VERSION) or not self._file.schema_arrow.equals(schema):
            raise CorpusError(
                f"{path} has schema version {version} or other columns than its manifest declares. {_REMEDY}"
            )
        if metadata.num_rows != self._first_token[-1]:
            raise CorpusError(f"{path} has {metadata.num_rows} rows, its corpus {self._first_token[-1]}. {_REMEDY}")
        check_pages(path, CorpusError)
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._first_row = np.concatenate([[0], np.cumsum(rows)])

    @classmethod
    def open(cls, directory: Path | str, corpus: Corpus) -> Annotations:
        """Open the annotations of the corpus in `directory`, and compare them with their hash in its manifest.

        Raises
        ------
        CorpusError
            If the corpus has none, or they are damaged or belong to another corpus.
        """
        entry = corpus.manifest.annotations_file
        if entry is None:
            raise CorpusError(
                f"corpus {corpus.manifest.corpus} has no annotations. Name columns under 'labels' of its source, and "
                "tokenize it again."
            )
        path = Path(directory) / entry.file
        if path.is_file() and sha256_file(path) != entry.sha256:
            raise CorpusError(f"{path} differs from its manifest (SHA-256). {_REMEDY}")
        return cls(path, corpus.lengths, corpus.manifest.labels)

    def at(self, document: npt.NDArray[np.int64], position: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """Codes by column of the tokens at `position` (from 0) of `document`, both int64[n]; fastest in corpus order.

        Raises
        ------
        CorpusError
            If there is no such token, or the file is damaged.
        """
        lengths = np.diff(self._first_token)
        if len(document) and not (document.min() >= 0 and document.max() < len(lengths)):
            raise CorpusError(f"{self._path} has no document {document.max()}, only {len(lengths)}. {_REMEDY}")
        if np.any(position < 0) or np.any(position >= lengths[document]):
            raise CorpusError(f"{self._path}: a position is outside its document. {_REMEDY}")
        # Row i of the file is the i-th token of the corpus, so a token's row follows from its position.
        rows = self._first_token[document] + position
        group_of_row = np.searchsorted(self._first_row, rows, side="right") - 1
        codes = {column.name: np.zeros(len(rows), column.field.type.to_pandas_dtype()) for column in self.columns}
        for group in np.unique(group_of_row).tolist():
            chosen = group_of_row == group
            inside = rows[chosen] - self._first_row[group]
            read = self._group(group)
            if not np.array_equal(read["document"][inside], document[chosen]):
                raise CorpusError(f"{self._path}: its rows are not those of its corpus. {_REMEDY}")
            for name, values in codes.items():
                values[chosen] = read[name][inside]
        return codes

    def document(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """Codes by column of one document's tokens, int[n].

        Raises
        ------
        CorpusError
            If there is no such document, or the file is damaged.
        """
        if not 0 <= number < len(self._first_token) - 1:
            raise CorpusError(f"{self._path} has no document {number}, only {len(self._first_token) - 1}. {_REMEDY}")
        length = int(self._first_token[number + 1] - self._first_token[number])
        return self.at(np.full(length, number), np.arange(length))

    def _group(self, group: int) -> dict[str, npt.NDArray[Any]]:
        if group not in self._cached:
            try:
                table = self._file.read_row_group(group)
            except (OSError, pa.ArrowException) as error:
                raise CorpusError(f"{self._path} is damaged ({error}). {_REMEDY}") from error
            if any(column.null_count for column in table.columns):
                raise CorpusError(f"{self._path} has empty cells. {_REMEDY}")
            while len(self._cached) > 1:
                del self._cached[next(iter(self._cached))]
            read = {name: table[name].to_numpy() for name in table.column_names}
            for column in self.columns:
                names, codes = len(column.categories), read[column.name]
                if names and len(codes) and not (codes.min() >= 0 and codes.max() < names):
                    raise CorpusError(f"{self._path}: column {column.name} has a code without a name. {_REMEDY}")
            self._cached[group] = read
        return self._cached[group]
