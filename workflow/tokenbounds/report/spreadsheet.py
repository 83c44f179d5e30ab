"""Tables as CSV that spreadsheets read as text and numbers, never as formulas."""

from __future__ import annotations

import polars as pl

_FORMULA = r"^[=+\-@\t\r]"


def to_csv(table: pl.DataFrame) -> bytes:
    """A table as CSV; a text that a spreadsheet would take for a formula has an apostrophe before it."""
    text = pl.col(pl.String)
    defused = pl.when(text.str.contains(_FORMULA)).then("'" + text).otherwise(text).name.keep()
    return table.with_columns(defused).write_csv().encode()
