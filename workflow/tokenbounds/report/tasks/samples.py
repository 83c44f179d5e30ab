"""Samples of text, as a table and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tokenbounds.report.tasks.generation import Answers
from tokenbounds.tasks import samples

SCHEMA: dict[str, pl.DataType] = {"task": pl.String(), "message": pl.String(), **samples.SCHEMA}


def sample_table(results: Sequence[Answers]) -> pl.DataFrame:
    """One row per task, message and prompt (`SCHEMA`): both texts, and how many of their tokens agree."""
    frames = [
        one.frame.select(pl.lit(one.name).alias("task"), pl.lit(one.message).alias("message"), *samples.SCHEMA)
        for one in results
        if one.task.kind == "samples"
    ]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *frames])


def shown_samples(table: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows, with what cannot be printed replaced, and `task_count`, how many tasks there are."""
    texts = ("prompt", "decoded", "original")
    count = {"task_count": table["task"].n_unique()}
    return [row | {name: _printable(row[name]) for name in texts} | count for row in table.to_dicts()]


def _printable(text: str | None) -> str | None:
    """The text with replacement characters for what would control a terminal or a page."""
    return None if text is None else "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
