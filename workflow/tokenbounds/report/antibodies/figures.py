"""Figures of antibody models: regions, IMGT positions, and tasks against bits per weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from tokenbounds.antibodies.labels import REGION_SPANS
from tokenbounds.bounds.kinds import BPD
from tokenbounds.report import hover, style
from tokenbounds.report.antibodies.tables import POSITION_COLUMN, REGIONS
from tokenbounds.report.drawing import Axes, Figure, FuncFormatter, Line2D, MaxNLocator, NullLocator
from tokenbounds.report.formats import format_value

_WIDTH_INCHES = 7.2
_SERIES = 6
_DODGE = 0.72
_KEYS_PER_ROW = 3
_LEGEND: dict[str, Any] = {"ncols": _KEYS_PER_ROW, "frameon": False, "fontsize": 8.5, "labelcolor": style.INK}
_BOUNDED = {"certified_bpd": "certified, bits per token", "held_out_bpd": "certified held out, bits per token"}


def choose_subsets(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """The best BPD row of each label, for the certificates with the smallest average: at most six per corpus."""
    rows = table.filter((pl.col("column") == column) & (pl.col("metric") == "bpd"))
    best = rows.sort("value").unique(["certificate", "label"], keep="first", maintain_order=True)
    mean = (pl.col("value") * pl.col("tokens")).sum() / pl.col("tokens").sum()
    order = best.group_by("corpus", "certificate").agg(mean.alias("mean")).sort("corpus", "mean")
    chosen = order.group_by("corpus", maintain_order=True).head(_SERIES)
    return chosen.join(best, on=["corpus", "certificate"], maintain_order="left")


def draw_regions(table: pl.DataFrame) -> Figure:
    """Certified and measured loss of each region, one panel per corpus, one colour per certificate."""
    corpora = table["corpus"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(_WIDTH_INCHES, 3.6 * len(corpora)), layout="constrained")
    panels = figure.subplots(len(corpora), 1, squeeze=False)[:, 0]
    for axes, corpus in zip(panels, corpora, strict=True):
        rows = table.filter(pl.col("corpus") == corpus)
        colours = style.colours(rows["certificate"].to_list())
        guess = float(rows["random_guess"].to_numpy()[0])
        axes.set_ylim(0, 1.1 * guess)
        for place, (name, colour) in enumerate(colours.items()):
            shift = _DODGE * ((place + 0.5) / len(colours) - 0.5)
            _draw_stems(axes, rows.filter(pl.col("certificate") == name), shift, colour)
        axes.set_xticks(range(len(REGIONS)), REGIONS)
        axes.set_xlim(-0.5, len(REGIONS) - 0.5)
        _finish(axes, corpus, colours, guess)
    return figure


def _draw_stems(axes: Axes, rows: pl.DataFrame, shift: float, colour: str) -> None:
    """Measured loss at the bottom, certified loss at the top; a triangle is a bound beyond random guessing."""
    ceiling = axes.get_ylim()[1]
    for row in rows.iter_rows(named=True):
        if row["label"] not in REGIONS:
            continue
        x, top = REGIONS.index(row["label"]) + shift, min(row["value"], ceiling)
        axes.plot([x, x], [row["empirical"], top], color=colour, alpha=0.38, linewidth=2.6, zorder=2)
        (tick,) = axes.plot(x, row["empirical"], marker="_", markersize=6, markeredgewidth=1.5, color=colour, zorder=3)
        shape: dict[str, Any] = {"marker": "o" if top < ceiling else "^", "markersize": 4.6, "clip_on": False}
        (dot,) = axes.plot(x, top, color=colour, zorder=3, **shape)
        value, measured = format_value(BPD, row["value"]), format_value(BPD, row["empirical"])
        for mark in (tick, dot):
            hover.say(mark, f"{row['certificate']}, {row['label']}: at most {value}, measured {measured}")


def draw_positions(table: pl.DataFrame) -> Figure:
    """Certified (solid) and measured (dashed) loss along IMGT positions, CDRs shaded, one panel per corpus."""
    corpora = table["corpus"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(_WIDTH_INCHES, 3.3 * len(corpora)), layout="constrained")
    panels = figure.subplots(len(corpora), 1, squeeze=False)[:, 0]
    for axes, corpus in zip(panels, corpora, strict=True):
        rows = table.filter((pl.col("corpus") == corpus) & pl.col("label").str.contains(r"^[1-9]\d*$"))
        rows = rows.with_columns(pl.col("label").cast(pl.Int64).alias("position")).sort("position")
        colours = style.colours(rows["certificate"].to_list())
        guess = float(rows["random_guess"].to_numpy()[0])
        axes.set_ylim(0, 1.1 * guess)
        for name, colour in colours.items():
            line = rows.filter(pl.col("certificate") == name)
            shown = line["value"].clip(upper_bound=1.1 * guess)
            axes.plot(line["position"], shown, color=colour, linewidth=1.3)
            axes.plot(line["position"], line["empirical"], color=colour, linewidth=0.9, linestyle=(0, (3, 2)))
            points = [
                (x, y, f"{name}, position {x}: at most {format_value(BPD, value)}, measured {format_value(BPD, loss)}")
                for x, y, value, loss in zip(line["position"], shown, line["value"], line["empirical"], strict=True)
            ]
            hover.mark_points(axes, points, colour)
        for region, first, last in REGION_SPANS:
            axes.text(
                (first + last) / 2, 1.01, region.label, transform=axes.get_xaxis_transform(), ha="center", fontsize=8
            )
            if region.label.startswith("CDR"):
                axes.axvspan(first - 0.5, last + 0.5, color=style.RULE, alpha=0.5, linewidth=0, zorder=0)
        axes.set_xlim(0.5, 128.5)
        axes.set_xlabel("IMGT position")
        _finish(axes, corpus, colours, guess, above=0.09)
    return figure


def _finish(axes: Axes, corpus: str, colours: dict[str, str], guess: float, above: float = 0.0) -> None:
    axes.set_ylabel("bits per token")
    axes.axhline(guess, color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_title(corpus, pad=12 + 14 * math.ceil(len(colours) / _KEYS_PER_ROW) + 100 * above)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0 + above), "borderpad": 0.2}
    axes.legend(handles=_keys(colours), **place, **_LEGEND)


def _keys(colours: dict[str, str]) -> list[Line2D]:
    return [Line2D([], [], color=colour, marker="o", markersize=4.6, label=name) for name, colour in colours.items()]


def choose_measures(table: pl.DataFrame) -> pl.DataFrame:
    """The rows of models that were coded at two or more rates."""
    rows = table.filter(pl.col("bits_per_weight").is_not_null() & pl.col("value").is_not_null())
    return rows.filter(pl.col("bits_per_weight").n_unique().over("model", "metric") > 1)


def draw_quantization(table: pl.DataFrame) -> Figure:
    """Each measure, and bounds, against bits per weight: one panel per measure, one line per model and quantizer."""
    table = table.with_columns(pl.format("{}, {}", "model", "quantizer").alias("series"))
    bounded = {
        key: name for key, name in _BOUNDED.items() if table.filter(pl.col(key).is_not_null())["message"].n_unique() > 1
    }
    measures = table["metric"].unique(maintain_order=True).to_list()
    height = math.ceil((len(bounded) + len(measures)) / 2)
    figure = Figure(figsize=(_WIDTH_INCHES, 2.5 * height), layout="constrained")
    panels = list(figure.subplots(height, 2, squeeze=False).flat)
    colours = style.colours(table["series"].to_list())
    for axes, (key, name) in zip(panels, bounded.items(), strict=False):
        _draw_measure(axes, name, table, key, colours)
    for axes, name in zip(panels[len(bounded) :], measures, strict=False):
        _draw_measure(axes, name, table.filter(pl.col("metric") == name), "value", colours)
    for axes in panels[len(bounded) + len(measures) :]:
        axes.set_visible(False)
    figure.legend(handles=_keys(colours), loc="outside upper left", **_LEGEND)
    return figure


def _draw_measure(axes: Axes, name: str, rows: pl.DataFrame, column: str, colours: dict[str, str]) -> None:
    axes.set_title(name, fontsize=9)
    for series, colour in colours.items():
        line = rows.filter((pl.col("series") == series) & pl.col(column).is_not_null())
        line = line.unique("message").sort("bits_per_weight")
        axes.plot(line["bits_per_weight"], line[column], color=colour, marker="o", markersize=4.6, linewidth=1.2)
        values = line.select("bits_per_weight", column).iter_rows()
        points = [(bits, value, f"{series}, {bits:.3g} bits per weight: {value:.4g}") for bits, value in values]
        hover.mark_points(axes, points, colour)
    axes.set_xscale("log")
    ticks = _ticks(rows["bits_per_weight"].drop_nulls().to_list())
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("bits per weight")


def _ticks(values: Sequence[float]) -> list[float]:
    """The values, or fewer where labels would touch."""
    kept: list[float] = []
    apart = max(1.25, (max(values) / min(values)) ** (1 / 9))
    for value in sorted(set(values)):
        if not kept or value > apart * kept[-1]:
            kept.append(value)
    return kept


SUBSET_FIGURES = (("regions", "region", draw_regions), ("positions", POSITION_COLUMN, draw_positions))
