"""Tables as CSV that spreadsheets read as text and numbers, never as formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

import polars as pl

_FORMULA = r"^[=+\-@\t\r]"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def to_csv(table: pl.DataFrame) -> bytes:
    """A table as CSV; a text that a spreadsheet would take for a formula has an apostrophe before it."""
    text = pl.col(pl.String)
    defused = pl.when(text.str.contains(_FORMULA)).then("'" + text).otherwise(text).name.keep()
    return table.with_columns(defused).write_csv().encode()


def rows_to_csv(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as CSV, numbers as they are; formulas as in `to_csv`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        formulas = [re.match(_FORMULA, cell) and not _NUMBER.fullmatch(cell) for cell in row]
        writer.writerow([f"'{cell}" if is_formula else cell for cell, is_formula in zip(row, formulas, strict=True)])
    return out.getvalue()
