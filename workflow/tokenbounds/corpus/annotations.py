"""Annotations: what is known about each token of a corpus, beside its shards.

One Parquet file, a row for each token in corpus order. `document` and `position` are those of score files, so that
the two join; row i is the i-th token of the corpus, so that whoever streams scores finds labels without a join.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.antibodies.labels import Chain, Germline, Region, TokenLabels
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CorpusError
from tokenbounds.files import canonical_json

SCHEMA_VERSION = 1
ANNOTATIONS_NAME = "annotations.parquet"
ANNOTATIONS_SCHEMA = pa.schema(
    [
        ("document", pa.int64()),
        ("position", pa.int64()),
        ("member", pa.int32()),
        ("chain", pa.int8()),
        ("region", pa.int8()),
        ("germline", pa.int8()),
        ("imgt", pa.int16()),
    ],
    metadata={
        "schema_version": str(SCHEMA_VERSION),
        "chain": canonical_json([value.label for value in Chain]),
        "region": canonical_json([value.label for value in Region]),
        "germline": canonical_json([value.label for value in Germline]),
    },
)
_LABELS = ("member", "chain", "region", "germline", "imgt")
_LAYOUT: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": ["document", *_LABELS],
    "column_encoding": {"position": "DELTA_BINARY_PACKED"},
}
_REMEDY = "Run `snakemake --forcerun tokenize_corpus`."


class AnnotationWriter:
    """Writes the labels of documents, batch by batch."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, ANNOTATIONS_SCHEMA, **_LAYOUT)

    def write(self, first_document: int, labels: Sequence[TokenLabels]) -> None:
        """Append the labels of consecutive documents, the first of which has number `first_document`."""
        lengths = np.array([len(each) for each in labels], np.int64)
        documents = np.repeat(first_document + np.arange(len(labels)), lengths)
        positions = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        columns = [np.concatenate([getattr(each, name) for each in labels]) for name in _LABELS]
        arrays = [pa.array(values) for values in (documents, positions, *columns)]
        self._writer.write_table(pa.table(arrays, schema=ANNOTATIONS_SCHEMA))

    def close(self) -> None:
        """Write the footer; until then the file is not readable."""
        self._writer.close()


class Annotations:
    """The annotations of a corpus, read as they are asked for: memory holds two row groups at most."""

    def __init__(self, path: Path, lengths: npt.NDArray[np.int64]) -> None:
        self._path = path
        self._first_token = np.concatenate([[0], np.cumsum(lengths)])
        self._cached: dict[int, dict[str, npt.NDArray[Any]]] = {}
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"cannot read {path}: {error}. {_REMEDY}") from error
        metadata = self._file.metadata
        version = (metadata.metadata or {}).get(b"schema_version", b"none").decode("utf-8", "replace")
        if version != str(SCHEMA_VERSION) or not self._file.schema_arrow.equals(ANNOTATIONS_SCHEMA):
            raise CorpusError(f"{path} has schema version {version} or other columns than annotations. {_REMEDY}")
        if metadata.num_rows != self._first_token[-1]:
            raise CorpusError(f"{path} has {metadata.num_rows} rows, its corpus {self._first_token[-1]}. {_REMEDY}")
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._first_row = np.concatenate([[0], np.cumsum(rows)])

    @classmethod
    def open(cls, directory: Path | str, corpus: Corpus) -> Annotations:
        """Open the annotations of the corpus in `directory`.

        Raises
        ------
        CorpusError
            If the corpus has none, or they are damaged or of another corpus.
        """
        entry = corpus.manifest.annotations_file
        if entry is None:
            raise CorpusError(
                f"corpus {corpus.manifest.corpus} has no annotations. Only sources of kind airr, oas, fasta and csv do."
            )
        return cls(Path(directory) / entry.file, corpus.lengths)

    def at(self, document: npt.NDArray[np.int64], position: npt.NDArray[np.int64]) -> TokenLabels:
        """Labels of the tokens at `position` (from 0) of `document`, both int64[n]; fastest in corpus order.

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
        rows = self._first_token[document] + position
        group_of_row = np.searchsorted(self._first_row, rows, side="right") - 1
        columns = {name: np.zeros(len(rows), ANNOTATIONS_SCHEMA.field(name).type.to_pandas_dtype()) for name in _LABELS}
        for group in np.unique(group_of_row).tolist():
            chosen = group_of_row == group
            inside = rows[chosen] - self._first_row[group]
            read = self._group(group)
            if not np.array_equal(read["document"][inside], document[chosen]):
                raise CorpusError(f"{self._path}: its rows are not those of its corpus. {_REMEDY}")
            for name in _LABELS:
                columns[name][chosen] = read[name][inside]
        return TokenLabels(**columns)

    def document(self, number: int) -> TokenLabels:
        """Labels of one document's tokens.

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
            self._cached[group] = {name: table[name].to_numpy() for name in table.column_names}
        return self._cached[group]
