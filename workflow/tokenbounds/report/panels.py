"""What the panels of figures share: their size, their axes, keys and reference lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import polars as pl

from tokenbounds.report import style
from tokenbounds.report.drawing import Artist, Axes, Figure, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from tokenbounds.report.formats import format_bytes

WIDTH_INCHES = 7.2
_SUBDIVISIONS = ((0.6, range(1, 10)), (2, (1, 2, 5)), (math.inf, (1,)))  # of a decade, by decades drawn at most


def make(count: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure of the page's width with `count` panels, one above the other, each `height` inches high."""
    figure = Figure(figsize=(WIDTH_INCHES, height * count), layout="constrained")
    return figure, list(figure.subplots(count, 1, squeeze=False)[:, 0])


def extent(column: pl.Series) -> tuple[float, float]:
    """Smallest and largest value."""
    values = column.to_numpy()
    return float(values.min()), float(values.max())


def title(axes: Axes, corpus: str, corpora: int) -> None:
    """Name the corpus above a panel and its key, if there are several."""
    if corpora > 1:
        axes.set_title(corpus, pad=24)


def legend(axes: Axes, keys: Sequence[Artist]) -> None:
    """Write the keys in one row above the panel."""
    axes.legend(
        handles=keys,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=len(keys),
        frameon=False,
        fontsize=8.5,
        labelcolor=style.INK,
        handletextpad=0.5,
        columnspacing=1.4,
        borderpad=0.2,
    )


def guess_line(axes: Axes, guess: float, side: Literal["left", "right"]) -> None:
    """A dashed line at what random guessing gives."""
    horizontal_line(axes, guess, f"random guessing: {guess:.3g}", side)


def horizontal_line(axes: Axes, y: float, text: str, side: Literal["left", "right"], below: bool = False) -> None:
    """A dashed line across the panel with its text at one end, above or below it."""
    axes.axhline(y, color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    axes.annotate(
        text,
        (0 if side == "left" else 1, y),
        xycoords=("axes fraction", "data"),
        xytext=(4 if side == "left" else -2, -4 if below else 4),
        textcoords="offset points",
        ha=side,
        va="top" if below else "baseline",
        fontsize=8.5,
        color=style.MUTED,
    )


def decade_ticks(axes: Axes) -> None:
    """Ticks of a logarithmic axis x: the fewer within a decade, the more decades there are."""
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    subdivisions = next(marks for limit, marks in _SUBDIVISIONS if decades <= limit)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=subdivisions, numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())


def size_axis(axes: Axes) -> None:
    """Ticks for sizes of messages, in bytes, and for bits per token."""
    decade_ticks(axes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(round(value * 8))))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.set_xlabel("message size")
