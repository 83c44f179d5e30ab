"""Delimited tables, plain or compressed, row by row: bounded memory, and errors that name file and row."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.readers import files
from tokenbounds.antibodies.readers.cells import is_missing, name_in
from tokenbounds.errors import CorpusError

FILE_AS_VALUE = "@file"


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
        """A cell without surrounding blanks; empty if the column is absent, or the cell says that there is no value."""
        value = self.values.get(column, "").strip() if column else ""
        return "" if is_missing(value) else value

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
            raise self.error(column, f"{value[:40]!r} is not a whole number. Correct the cell.") from None

    def error(self, column: str, fault: str) -> CorpusError:
        """An error about one cell."""
        return CorpusError(f"{self.where}, column '{column}': {fault}")


class Table:
    """A table whose columns have been read and whose rows have not.

    In a tab-separated table a quotation mark is an ordinary character, unless a pair of them encloses a whole cell. So
    a single one cannot join rows. Columns without a name, as spreadsheets leave them, are not read.
    """

    def __init__(self, path: Path, lines: Iterator[str], delimiter: str, first_line: int) -> None:
        self._path = path
        self._delimiter = delimiter
        csv.field_size_limit(files.LONGEST_LINE)
        if delimiter == "\t":
            self._reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
        else:
            self._reader = csv.reader(lines, delimiter=delimiter, strict=True)
        self._first_line = first_line
        self._names = self._header()
        self.columns = [name for name in self._names if name]

    def _header(self) -> list[str]:
        names = [name.strip() for name in next(self._records(), [])]
        if not any(names):
            raise CorpusError(f"{self._path} has no header. Its first row must name the columns.")
        doubled = sorted({name for name in names if name and names.count(name) > 1})
        if doubled:
            raise CorpusError(f"{self._path} names the column '{doubled[0]}' twice. Rename one of the two.")
        return names

    def _records(self) -> Iterator[list[str]]:
        try:
            if self._delimiter == "\t":
                for cells in self._reader:
                    yield [_unquoted(cell) if cell[:1] == '"' else cell for cell in cells]
            else:
                yield from self._reader
        except csv.Error as error:
            raise CorpusError(f"{self._where()} cannot be read ({error}). Correct the row.") from error

    def _where(self) -> str:
        return f"{self._path}:{self._reader.line_num + self._first_line}"

    def rows(self) -> Iterator[Row]:
        """Yield the rows that are not blank.

        Raises
        ------
        CorpusError
            If a row has more or fewer cells than there are columns, or is not well-formed.
        """
        line = self._reader.line_num
        for cells in self._records():
            over_lines, line = self._reader.line_num - line > 1, self._reader.line_num
            if not cells:
                continue
            where = self._where()
            width = len(self._names)
            if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
                del cells[width:]
            if len(cells) != width:
                raise CorpusError(
                    f"{where} has {len(cells)} cells, the header {width} columns. Correct or remove the row."
                )
            if over_lines:
                self._refuse_swallowed_rows(cells, where)
            yield Row(where, {name: cell for name, cell in zip(self._names, cells, strict=True) if name})

    def _refuse_swallowed_rows(self, cells: list[str], where: str) -> None:
        """Refuse a quoted cell over several lines that holds as many cells as a row: a quotation mark is missing."""
        for cell in cells:
            if "\n" in cell and cell.count(self._delimiter) >= len(self._names) - 1:
                raise CorpusError(
                    f"{where} ends a cell over {cell.count(chr(10)) + 1} lines that holds whole rows. A quotation mark "
                    "is missing, or one too many: correct it."
                )


def _unquoted(cell: str) -> str:
    """A cell without the pair of quotation marks around it; a single one is a character like any other."""
    inner = cell[1:-1]
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else cell


@contextmanager
def open_table(path: Path, *, metadata_line: bool = False) -> Iterator[tuple[Table, str]]:
    """Open a table whose delimiter is a tab if its header has one, otherwise a comma.

    Parameters
    ----------
    path
        The file.
    metadata_line
        Whether a line precedes the header; it is returned with the table, otherwise an empty text.

    Raises
    ------
    CorpusError
        As `open_lines`, or if there is no header.
    """
    with files.open_lines(path) as lines:
        metadata = next(lines, "") if metadata_line else ""
        header = next(lines, "")
        delimiter = "\t" if "\t" in header else ","
        yield Table(path, itertools.chain([header], lines), delimiter, 1 if metadata_line else 0), metadata


def name_of(row: Row, column: str | None, path: Path, counts: ReadingCounts, what: str) -> str:
    """A clone, donor or cell: what the column's cell names, or for `@file` the file's name without its endings.

    Cells that name nothing (`unassigned`) are counted as `{what}_placeholder`.
    """
    if column == FILE_AS_VALUE:
        return path.name.split(".")[0]
    text = row.text(column)
    name = name_in(text)
    counts.add("noted", f"{what}_placeholder", int(bool(text) and not name))
    return name


def require_columns(table: Table, path: Path, wanted: dict[str, str | None]) -> None:
    """Refuse a table that lacks a column that the source names.

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
