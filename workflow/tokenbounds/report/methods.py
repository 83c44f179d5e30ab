"""The figure of methods of compression: what each buys at which size, and with how many trained parameters."""

from __future__ import annotations

from typing import Any

import polars as pl

from tokenbounds.bounds.kinds import BPD
from tokenbounds.report import hover, panels, style
from tokenbounds.report.drawing import Axes, Figure, FuncFormatter, Line2D, MaxNLocator
from tokenbounds.report.formats import NOT_QUANTIZED, format_bytes, format_value

Marks = dict[str, tuple[str, str]]  # colour and marker of each method
_COMPRESSED = pl.col("method") != NOT_QUANTIZED
_PUBLISHED = pl.col("bpd").is_null()  # only measured, and of other tokens
_MEASURED = (0, (3, 2))


def with_published(table: pl.DataFrame, published: pl.DataFrame) -> pl.DataFrame:
    """The table of methods with published losses (`published_numbers.read_published_losses`) as rows of each corpus.

    Their series are methods; they have trained parameters and measured losses alone.
    """
    rows = published.select(
        method="series", trained_parameters="trained_parameters", bpd_empirical="empirical_bits", certificate="label"
    )
    corpora = table["corpus"].unique(maintain_order=True).to_list()
    frames = [rows.with_columns(pl.lit(corpus).alias("corpus")) for corpus in corpora]
    return pl.concat([table, *frames], how="diagonal")


def draw_bound_by_method(table: pl.DataFrame) -> Figure:
    """Best certified bound against message size, one line per method; the measured loss, dashed, below.

    Where numbers of trained parameters are known and differ, a second panel of each corpus has them in place of sizes.
    """
    corpora = table["corpus"].unique(maintain_order=True).to_list()
    published, table = table.filter(_PUBLISHED), table.filter(~_PUBLISHED)
    marks = style.marks([*table.filter(_COMPRESSED).sort("bpd")["method"], *published["method"]])
    known = table.filter(_COMPRESSED & pl.col("trained_parameters").is_not_null())
    # A corpus and its column of a panel, panels of sizes first.
    drawn = [(corpus, "message_bits") for corpus in corpora]
    drawn += [
        (corpus, "trained_parameters")
        for corpus in corpora
        if known.filter(pl.col("corpus") == corpus)["trained_parameters"].n_unique() > 1
    ]
    figure, each = panels.make(len(drawn), height=4.6)
    for axes, (corpus, column) in zip(each, drawn, strict=True):
        axes.set_xscale("log")
        axes.set_ylabel("bits per token")
        here = table.filter((pl.col("corpus") == corpus) & pl.col(column).is_not_null())
        _draw_lines(axes, here, column, marks)
        if column == "message_bits":
            panels.size_axis(axes)
        else:
            _draw_published(axes, published.filter(pl.col("corpus") == corpus), marks)
            _parameter_axis(axes)
        panels.title(axes, corpus, len(corpora))
    keys = [
        Line2D([], [], marker=marker, markersize=5, color=colour, label=name, markerfacecolor=face)
        for name, (colour, marker) in marks.items()
        for face in (style.PAPER if name in published["method"] else colour,)
    ]
    keys.append(Line2D([], [], color=style.MUTED, linestyle=_MEASURED, linewidth=0.9, label="measured, not certified"))
    figure.legend(handles=keys, loc="outside lower left", ncols=3, frameon=False, fontsize=8.5, labelcolor=style.INK)
    return figure


def _draw_lines(axes: Axes, here: pl.DataFrame, column: str, marks: Marks) -> None:
    """One line per method through its values of a column: sizes in bits, which are drawn in bytes, or parameters."""
    unit = 8 if column == "message_bits" else 1
    for method, (colour, marker) in marks.items():
        line = here.filter(pl.col("method") == method).sort(column, "message_bits")
        x = line[column] / unit
        points = [
            (place, bound, f"{method}, {format_bytes(bits)}: at most {format_value(BPD, bound)}")
            for place, (bits, bound) in zip(x, line.select("message_bits", "bpd").iter_rows(), strict=True)
        ]
        hover.mark_points(axes, points, colour)
        axes.plot(x, line["bpd"], "-", marker=marker, color=colour, markersize=5, linewidth=1.5)
        axes.plot(x, line["bpd_empirical"], color=colour, linewidth=0.9, linestyle=_MEASURED, alpha=0.7)
    for loss in here.filter(~_COMPRESSED)["bpd_empirical"].unique():
        panels.horizontal_line(axes, loss, f"{NOT_QUANTIZED}: {loss:.3f} measured", "left", below=True)


def _draw_published(axes: Axes, rows: pl.DataFrame, marks: Marks) -> None:
    """Published losses, hollow: nothing is certified about them."""
    for (method, label), line in rows.group_by("method", "certificate", maintain_order=True):
        colour, marker = marks[method]
        line = line.sort("trained_parameters")
        x, y = line["trained_parameters"], line["bpd_empirical"]
        look: dict[str, Any] = {"marker": marker, "markersize": 5, "markerfacecolor": style.PAPER}
        axes.plot(x, y, color=colour, linewidth=0.9, linestyle=_MEASURED, **look)
        points = [
            (place, loss, f"{method}, {label}: {format_value(BPD, loss)} measured")
            for place, loss in zip(x, y, strict=True)
        ]
        hover.mark_points(axes, points, colour)


def _parameter_axis(axes: Axes) -> None:
    panels.decade_ticks(axes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.set_xlabel("trained parameters")
