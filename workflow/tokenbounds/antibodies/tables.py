"""Delimited tables, plain or compressed, row by row: bounded memory, and errors that name file and row."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tokenbounds.errors import CorpusError

_LONGEST_LINE = 1 << 26
_GZIP_MAGIC = b"\x1f\x8b"
FILE_AS_VALUE = "@file"
_MISSING = frozenset({"", "NA"})


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes
    ----------
    where
        File and line, for errors.
    values
        Cells by column, as found.
    """

    where: str
    values: dict[str, str]

    def text(self, column: str | None) -> str:
        """A cell without surrounding blanks; empty if the column is absent, or the cell is empty or `NA`."""
        value = self.values.get(column, "").strip() if column else ""
        return "" if value in _MISSING else value

    def integer(self, column: str) -> int | None:
        """A cell as a number; None if there is none.

        Raises
        ------
        CorpusError
            If the cell holds something else.
        """
        value = self.text(column)
        if not value:
            return None
        try:
            return int(value.removesuffix(".0"))
        except ValueError:
            raise self.error(column, f"{value[:40]!r} is no whole number. Correct the cell.") from None

    def error(self, column: str, fault: str) -> CorpusError:
        """An error about one cell."""
        return CorpusError(f"{self.where}, column '{column}': {fault}")


class Table:
    """A table that is being read: its columns are known, its rows are yet to come."""

    def __init__(self, path: Path, lines: Iterator[str], delimiter: str, first_line: int) -> None:
        self._path = path
        csv.field_size_limit(_LONGEST_LINE)
        self._reader = csv.reader(lines, delimiter=delimiter, strict=True)
        self._first_line = first_line
        self.columns = self._header()

    def _header(self) -> list[str]:
        columns = [name.strip() for name in next(self._records(), [])]
        if not any(columns):
            raise CorpusError(f"{self._path} has no header. Its first row must name the columns.")
        doubled = sorted({name for name in columns if columns.count(name) > 1})
        if doubled:
            raise CorpusError(f"{self._path} names the column '{doubled[0]}' twice. Rename one of the two.")
        return columns

    def _records(self) -> Iterator[list[str]]:
        try:
            yield from self._reader
        except csv.Error as error:
            raise CorpusError(f"{self._where()} cannot be read ({error}). Mend the row.") from error

    def _where(self) -> str:
        return f"{self._path}:{self._reader.line_num + self._first_line}"

    def rows(self) -> Iterator[Row]:
        """Yield the rows that are not blank.

        Raises
        ------
        CorpusError
            If a row has more or fewer cells than there are columns, or is not well-formed.
        """
        for cells in self._records():
            if not cells:
                continue
            where = self._where()
            if len(cells) != len(self.columns):
                raise CorpusError(
                    f"{where} has {len(cells)} cells, the header {len(self.columns)} columns. Mend or remove the row."
                )
            yield Row(where, dict(zip(self.columns, cells, strict=True)))


@contextmanager
def open_lines(path: Path) -> Iterator[Iterator[str]]:
    """Open a text file, plain or gzip, as bounded lines with their ends; whatever fails is an error that names it.

    Raises
    ------
    CorpusError
        If it cannot be read, is not UTF-8, or has a line beyond 64 MiB.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
        opener = gzip.open if compressed else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield _bounded(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"cannot read {path}: {error}. Replace the file with an intact one.") from error


@contextmanager
def open_table(path: Path, *, metadata_line: bool = False) -> Iterator[tuple[Table, str]]:
    """Open a table whose delimiter is a tab if its header has one, else a comma.

    Parameters
    ----------
    path
        The file.
    metadata_line
        Whether a line precedes the header; it is returned with the table, else an empty text.

    Raises
    ------
    CorpusError
        As `open_lines`, or if there is no header.
    """
    with open_lines(path) as lines:
        metadata = next(lines, "") if metadata_line else ""
        header = next(lines, "")
        delimiter = "\t" if "\t" in header else ","
        yield Table(path, _chain(header, lines), delimiter, 1 if metadata_line else 0), metadata


def value_of(row: Row, column: str | None, path: Path) -> str:
    """A clone or donor: the column's cell, or the file's name without its endings for `@file`."""
    return path.name.split(".")[0] if column == FILE_AS_VALUE else row.text(column)


def require_columns(table: Table, path: Path, wanted: dict[str, str | None]) -> None:
    """Refuse a table that lacks a column which the source names.

    Parameters
    ----------
    table, path
        The table and its file.
    wanted
        Column by the source's key; None and `@file` need no column.

    Raises
    ------
    CorpusError
        If one is missing; the message lists the columns there are.
    """
    for key, column in wanted.items():
        if column is not None and column != FILE_AS_VALUE and column not in table.columns:
            there = ", ".join(table.columns[:40])
            raise CorpusError(f"{path} has no column '{column}' (it has: {there}). Correct the source's '{key}'.")


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _bounded(stream: TextIO, path: Path) -> Iterator[str]:
    number = 0
    try:
        while line := stream.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE:
                raise CorpusError(f"{path}:{number} has more than {_LONGEST_LINE} characters. Is it a text file?")
            yield line
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text after line {number} ({error}). Convert it to UTF-8.") from error
