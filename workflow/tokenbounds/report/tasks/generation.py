"""Answers that were written and checked: measured shares, and bounds for new prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tokenbounds.bounds.betting import bound_errors
from tokenbounds.config import TaskSpec
from tokenbounds.errors import TokenboundsError
from tokenbounds.report import style
from tokenbounds.report.drawing import Figure, FuncFormatter, Line2D
from tokenbounds.report.formats import format_bytes

SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("task", "message", "corpus"), pl.String()),
    "temperature": pl.Float64(),
    "prior": pl.String(),
    "held_out_because": pl.String(),
    **dict.fromkeys(("paid_bits", "prompts", "errors"), pl.Int64()),
    **dict.fromkeys(("accuracy", "certified_accuracy", "delta"), pl.Float64()),
}
_WIDTH_INCHES = 7.2


@dataclass(frozen=True)
class Answers:
    """What one message's model answered in one task.

    Attributes
    ----------
    name, task
        The task.
    message
        Name of the message.
    frame
        One row per question.
    paid_bits
        Bits of the message and of what it refines.
    """

    name: str
    task: TaskSpec
    message: str
    frame: pl.DataFrame
    paid_bits: int

    @classmethod
    def read(cls, name: str, task: TaskSpec, path: Path) -> Answers:
        """Read them from a file of rule measure_task.

        Raises
        ------
        TokenboundsError
            If it cannot be read.
        """
        try:
            frame, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
            return cls(name, task, path.stem, frame, int(metadata["paid_bits"]))
        except (pl.exceptions.PolarsError, OSError, KeyError, ValueError) as error:
            raise TokenboundsError(f"{path} cannot be read ({error}). Run task {name} again.") from error


def generation_table(results: Sequence[Answers]) -> pl.DataFrame:
    """One row per task of generated answers and message (`SCHEMA`).

    `accuracy` is the share of the prompts that were answered rightly. With probability 1 - `delta` a new prompt is
    answered rightly with probability `certified_accuracy` at least: one minus the inverse kl of the errors with the
    message's bits, or with none for `held_out` (docs/bounds.md, "Errors").
    """
    rows = []
    for one in results:
        task = one.task
        if task.kind != "generation":
            continue
        paid = 0 if task.prior == "held_out" else one.paid_bits
        errors, prompts = int((~one.frame["correct"]).sum()), one.frame.height
        complexity_nats = paid * math.log(2.0) + math.log(1.0 / task.delta)
        bound = bound_errors(errors / prompts, complexity_nats, prompts)
        rows.append(
            {
                **{"task": one.name, "message": one.message, "corpus": task.corpus, "temperature": task.temperature},
                **{"prior": task.prior, "held_out_because": task.held_out_because, "paid_bits": paid},
                **{"prompts": prompts, "errors": errors, "accuracy": 1.0 - errors / prompts},
                **{"certified_accuracy": 1.0 - bound.value, "delta": task.delta},
            }
        )
    return pl.DataFrame(rows, schema=SCHEMA)


def draw_generation(table: pl.DataFrame) -> Figure:
    """Measured and certified accuracy, one panel per task, one line per message, smallest message on top."""
    tasks = table["task"].unique(maintain_order=True).to_list()
    rows = [table.filter(pl.col("task") == task).sort("paid_bits", "message").to_dicts() for task in tasks]
    heights = [len(each) + 1.6 for each in rows]
    figure = Figure(figsize=(_WIDTH_INCHES, 0.34 * sum(heights) + 0.5), layout="constrained")
    panels = figure.subplots(len(tasks), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, task, lines in zip(panels, tasks, rows, strict=True):
        for place, row in enumerate(lines):
            colour = style.SERIES[1 if row["prior"] == "held_out" else 0]
            ends = [row["certified_accuracy"], row["accuracy"]]
            axes.plot(ends, [place, place], color=colour, linewidth=1.2)
            axes.plot(ends[1], place, color=colour, marker="|", markersize=11, markeredgewidth=2)
            axes.plot(ends[0], place, color=colour, marker="o", markersize=5)
        axes.set_title(_panel_title(task, lines[0]))
        axes.set_yticks(range(len(lines)), [_label(row) for row in lines])
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(axis="x")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    panels[-1].set_xlabel("answers that are right")
    keys = [
        Line2D([], [], color=style.MUTED, marker="|", markersize=11, markeredgewidth=2, linewidth=0, label="measured"),
        Line2D([], [], color=style.MUTED, marker="o", markersize=5, linewidth=0, label="certified for new prompts"),
    ]
    figure.legend(handles=keys, loc="outside upper right", ncols=2, frameon=False, fontsize=8.5)
    return figure


def _panel_title(task: str, row: dict[str, Any]) -> str:
    how = "greedy" if row["temperature"] == 0 else f"temperature {row['temperature']:g}"
    prior = "held out, nothing paid for" if row["prior"] == "held_out" else "bits paid for"
    return f"{task}: {row['prompts']:,} prompts, {how}, {prior}"


def _label(row: dict[str, Any]) -> str:
    return row["message"] if row["prior"] == "held_out" else f"{row['message']}, {format_bytes(row['paid_bits'])}"
