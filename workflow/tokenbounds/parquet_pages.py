"""Sizes that a Parquet file claims, checked before it is read: what unpacks to more than its rows can hold is refused.

A reader of Parquet allocates what the header of a page says that it unpacks to, up to 2 GiB, whatever the file's size.
So headers are parsed here, page by page, and their contents left alone. They are Thrift structures in the compact
protocol (Apache Parquet's `parquet.thrift`, PageHeader; Apache Thrift's "Thrift compact protocol encoding").
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.errors import TokenboundsError

# Twice what a value takes, for an encoding's own numbers, or a dictionary besides the values.
_ROW_BYTES = {"BOOLEAN": 2, "INT32": 8, "FLOAT": 8, "INT64": 16, "DOUBLE": 16}
_TEXT_BYTES = 1 << 12  # of names and hashes
_FREE_BYTES = 1 << 16
_HEADER_BYTES = 1 << 14
_DEEPEST = 8
_FIELDS = {2: "unpacked", 3: "packed"}  # of PageHeader
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LISTS, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, (9, 10), 11, 12


def check_pages(path: Path, error: type[TokenboundsError]) -> None:
    """Refuse a file whose columns or pages claim to unpack to more than their rows take.

    Parameters
    ----------
    path
        The file. How many rows it has is for the caller to bound.
    error
        What is raised; it names the file and the column.
    """
    try:
        with pq.ParquetFile(path) as file, path.open("rb") as stream:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group)
                for column in range(rows.num_columns):
                    _check_chunk(stream, rows.column(column), rows.num_rows)
    except (OSError, pa.ArrowException) as fault:
        raise error(f"{path} cannot be read as Parquet ({fault}). Make it again.") from fault
    except ValueError as fault:
        raise error(f"{path}: {fault}. Make it again.") from fault


def _check_chunk(stream: BinaryIO, chunk: pq.ColumnChunkMetaData, rows: int) -> None:
    """Check one column of one row group.

    Raises
    ------
    ValueError
        If it claims too much, or its pages do not follow one another.
    """
    name = chunk.path_in_schema
    most = _FREE_BYTES + rows * _ROW_BYTES.get(chunk.physical_type, _TEXT_BYTES)
    if chunk.num_values > rows or chunk.total_uncompressed_size > most:
        raise ValueError(
            f"column {name} claims {chunk.num_values:,} values in {chunk.total_uncompressed_size:,} bytes, too many "
            f"for {rows:,} rows"
        )
    # Where there are no rows there may be a dictionary and no page of values.
    start = min((each for each in (chunk.data_page_offset, chunk.dictionary_page_offset) if each), default=0)
    end = start + chunk.total_compressed_size
    while start < end:
        stream.seek(start)
        sizes, length = _Header(stream.read(_HEADER_BYTES)).read()
        unpacked, packed = sizes.get("unpacked", -1), sizes.get("packed", -1)
        if not (0 <= unpacked <= most and 0 <= packed <= end - start):
            raise ValueError(f"a page of column {name} claims to unpack to {unpacked:,} bytes, with {rows:,} rows")
        start += length + packed


class _Header:
    """A page's header in the bytes from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self) -> tuple[dict[str, int], int]:
        """The sizes of the page, and the header's own length in bytes.

        Raises
        ------
        ValueError
            If it is no header.
        """
        found: dict[str, int] = {}
        field = 0
        while (kind := self._byte()) != _STOP:
            field = field + (kind >> 4) if kind >> 4 else self._integer()
            if field in _FIELDS and kind & 15 in (4, 5, 6):
                found[_FIELDS[field]] = self._integer()
            else:
                self._skip(kind & 15, 0)
        return found, self._at

    def _byte(self) -> int:
        if self._at >= len(self._data):
            raise ValueError("the header of a page has no end")
        self._at += 1
        return self._data[self._at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while shift < 64:
            byte = self._byte()
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value
        raise ValueError("a number in the header of a page has no end")

    def _integer(self) -> int:
        """A signed number: 0, -1, 1, -2, … are coded as 0, 1, 2, 3, …"""
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, kind: int, depth: int) -> None:
        """Pass over a value of a kind."""
        if depth > _DEEPEST:
            raise ValueError("the header of a page is nested too deeply")
        if kind == _BYTE:
            self._byte()
        elif kind in (4, 5, 6):
            self._unsigned()
        elif kind == _DOUBLE:
            self._at += 8
        elif kind == _BINARY:
            size = self._unsigned()  # moves on, too
            self._at += size
        elif kind in _LISTS:
            size = self._byte()
            for _ in range(self._unsigned() if size >> 4 == 15 else size >> 4):
                self._skip(_BYTE if size & 15 in (_TRUE, _FALSE) else size & 15, depth + 1)
        elif kind == _STRUCT:
            while (inner := self._byte()) != _STOP:
                if not inner >> 4:
                    self._integer()
                self._skip(inner & 15, depth + 1)
        elif kind not in (_TRUE, _FALSE):
            raise ValueError("the header of a page holds what no header holds")
