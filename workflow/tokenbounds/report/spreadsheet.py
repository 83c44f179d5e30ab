"""Tables as files; as CSV, spreadsheets read them as text and numbers, never as formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from tokenbounds.files import atomic_path, write_bytes

_FORMULA = r"^[=+\-@\t\r]"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def to_csv(table: pl.DataFrame) -> bytes:
    """A table as CSV; a text that a spreadsheet would take for a formula has an apostrophe before it."""
    text = pl.col(pl.String)
    defused = pl.when(text.str.contains(_FORMULA)).then("'" + text).otherwise(text).name.keep()
    return table.with_columns(defused).write_csv().encode()


def write_tables(tables: Mapping[str, pl.DataFrame], directory: Path, schema_version: int) -> list[Path]:
    """Write each table as Parquet and CSV under its name, one without rows too; return the Parquet files."""
    paths = []
    for name, table in tables.items():
        paths.append(directory / f"{name}.parquet")
        with atomic_path(paths[-1]) as temporary:
            table.write_parquet(temporary, metadata={"schema_version": str(schema_version)})
        write_bytes(directory / f"{name}.csv", to_csv(table))
    return paths


def rows_to_csv(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as CSV, numbers as they are; formulas as in `to_csv`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        formulas = [re.match(_FORMULA, cell) and not _NUMBER.fullmatch(cell) for cell in row]
        writer.writerow([f"'{cell}" if is_formula else cell for cell, is_formula in zip(row, formulas, strict=True)])
    return out.getvalue()
