"""The figures: each function draws one tidy table; `draw_figures` writes every figure that has data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from tokenbounds.bounds.kinds import BPD
from tokenbounds.report import figure_data, hover, panels, style
from tokenbounds.report.alpha_curve import alpha_table
from tokenbounds.report.compression import method_table
from tokenbounds.report.context import context_table, draw_bound_by_context
from tokenbounds.report.drawing import (
    Axes,
    Figure,
    FuncFormatter,
    Line2D,
    MaxNLocator,
    NullLocator,
    Patch,
)
from tokenbounds.report.formats import format_bytes, format_value
from tokenbounds.report.methods import draw_bound_by_method, with_published
from tokenbounds.report.published_numbers import read_published_losses
from tokenbounds.report.records import read_certificates
from tokenbounds.report.token_alphas import choose_certificates, draw_alpha_by_token, token_alpha_table

_MIN_TOKENS_DRAWN = 30
_ENTROPY: dict[str, Any] = {"linestyle": (0, (1.2, 1.4)), "linewidth": 1.1}


def draw_figures(
    certificate_paths: Iterable[Path | str],
    directory: Path | str,
    *,
    training: Mapping[str, Path] | None = None,
    methods: bool = False,
    published_losses: Path | None = None,
) -> list[Path]:
    """Write every figure that has data as SVG, PNG and its data (Parquet, CSV) into `directory`.

    Parameters
    ----------
    certificate_paths
        Certificates; the score and plan files they name are read too.
    directory
        Where figures go.
    training
        Loss curve (Parquet: step, loss_bits, learning_rate) of each trained model.
    methods
        Whether to compare methods of compression: one line per method through its sizes.
    published_losses
        A table of published losses to draw beside these methods'; see `published_numbers.read_published_losses`.

    Returns
    -------
    list of Path
        The SVG files, in reading order.

    Raises
    ------
    TokenboundsError
        If a certificate, or a file it names, cannot be read.
    """
    directory = Path(directory)
    certificates = read_certificates(certificate_paths)
    series = figure_data.choose_series(certificates)
    compared = method_table(certificates if methods else [])
    if published_losses is not None:
        compared = with_published(compared, read_published_losses(published_losses))
    tables: list[tuple[str, pl.DataFrame, Callable[[pl.DataFrame], Figure]]] = [
        ("bound_by_size", figure_data.size_table(certificates), draw_bound_by_size),
        ("bound_by_method", compared, draw_bound_by_method),
        ("bound_by_context", context_table(certificates), draw_bound_by_context),
        ("bound_by_alpha", alpha_table(series), draw_bound_by_alpha),
        ("alpha_by_token", token_alpha_table(choose_certificates(certificates)), draw_alpha_by_token),
        ("loss_by_position", figure_data.position_table(series), draw_loss_by_position),
        ("message_anatomy", figure_data.anatomy_table(certificates), draw_message_anatomy),
        ("training", figure_data.training_table(training or {}), draw_training),
    ]
    with style.figure_style():
        return [style.save(draw(table), table, directory, name) for name, table, draw in tables if table.height]


# --- bound against message size ---------------------------------------------------------------------------------------


def draw_bound_by_size(table: pl.DataFrame) -> Figure:
    """Certified bound and its parts against message size, one panel per corpus, the random-guess line on top."""
    corpora = table["corpus"].unique(maintain_order=True).to_list()
    figure, each = panels.make(len(corpora), height=3.9)
    colours = style.colours(table["model"].to_list())
    for axes, corpus in zip(each, corpora, strict=True):
        _draw_size_panel(axes, table.filter(pl.col("corpus") == corpus), colours)
        panels.title(axes, corpus, len(corpora))
    return figure


def _draw_size_panel(axes: Axes, table: pl.DataFrame, colours: dict[str, str]) -> None:
    guess = panels.extent(table["random_guess"])[1]
    axes.set_xscale("log")
    low, high = (bits / 8 for bits in panels.extent(table["message_bits"]))
    axes.set_xlim(low / 1.6, high * 1.6)
    # From zero, so that a bound of half the guess is half as high; nothing far above the guess is shown.
    axes.set_ylim(0, max(1.1 * guess, min(1.04 * panels.extent(table["value"])[1], 1.25 * guess)))
    best = table.sort("value").unique("certificate", keep="first", maintain_order=True)
    ceiling = axes.get_ylim()[1]
    for row in best.iter_rows(named=True):
        _draw_stem(axes, row, colours[row["model"]], ceiling)
    for model in best["model"].unique(maintain_order=True):
        line = best.filter((pl.col("model") == model) & (pl.col("value") < ceiling)).sort("message_bits")
        axes.plot(line["message_bits"] / 8, line["value"], color=colours[model], linewidth=1.1, zorder=2.5)
    ring: dict[str, Any] = {"markersize": 4.5, "markerfacecolor": style.PAPER, "markeredgewidth": 1.1}
    for row in table.join(best, on=["certificate", "bound"], how="anti").iter_rows(named=True):
        if row["value"] < ceiling:
            colour = colours[row["model"]]
            (dot,) = axes.plot(row["message_bits"] / 8, row["value"], "o", color=colour, zorder=3, **ring)
            hover.say(dot, _bound_in_words(row))
    panels.guess_line(axes, guess, "left")
    panels.size_axis(axes)
    axes.set_ylabel("bits per token")
    _size_key(axes, table, best)
    _label_models(axes, table, colours, ceiling)


def _draw_stem(axes: Axes, row: dict[str, Any], colour: str, ceiling: float) -> None:
    """One certificate: empirical risk at the bottom, complexity above it, sampling on top, the bound as a dot."""
    x = row["message_bits"] / 8
    paid = row["empirical"] + row["gap_complexity"]
    axes.plot([x, x], [row["empirical"], min(paid, ceiling)], color=colour, alpha=0.38, linewidth=3.2, zorder=2)
    if row["gap_sampling"] > 0 and paid < ceiling:
        axes.plot([x, x], [paid, min(row["value"], ceiling)], color=colour, linewidth=1.2, linestyle=":", zorder=2)
    (tick,) = axes.plot(x, row["empirical"], marker="_", markersize=9, markeredgewidth=1.8, color=colour, zorder=3)
    if row["value"] < ceiling:
        (dot,) = axes.plot(x, row["value"], marker="o", markersize=6.5, color=colour, zorder=3.5)
    else:
        (dot,) = axes.plot(x, ceiling, marker="^", markersize=7, color=colour, clip_on=False, zorder=3.5)
    for mark in (tick, dot):
        hover.say(mark, _bound_in_words(row))


def _bound_in_words(row: dict[str, Any]) -> str:
    value, measured = format_value(BPD, row["value"]), format_value(BPD, row["empirical"])
    size = format_bytes(row["message_bits"])
    return f"{row['certificate']}, {size}: at most {value} by {row['bound']}, measured {measured}"


def _label_models(axes: Axes, table: pl.DataFrame, colours: dict[str, str], ceiling: float) -> None:
    """Name each model next to the dot of its best certificate, clear of every mark."""
    marks = []
    for row in table.iter_rows(named=True):
        heights = (row["empirical"] + step / 6 * (row["value"] - row["empirical"]) for step in range(7))
        marks += [(row["message_bits"] / 8, height) for height in heights if height < ceiling]
    best = table.sort("value").unique("model", keep="first", maintain_order=True)
    labels = [
        (row["message_bits"] / 8, min(row["value"], ceiling), row["model"], colours[row["model"]])
        for row in best.iter_rows(named=True)
    ]
    style.label_marks(axes, labels, marks)


def _size_key(axes: Axes, table: pl.DataFrame, best: pl.DataFrame) -> None:
    mark: dict[str, Any] = {"linestyle": "none", "color": style.MUTED}
    keys = [Line2D([], [], marker="o", markersize=6.5, label=_named(best["bound"].unique(), "best bound"), **mark)]
    others = table.join(best, on=["certificate", "bound"], how="anti")["bound"].unique()
    if len(others):
        ring: dict[str, Any] = {"markerfacecolor": style.PAPER, "markeredgewidth": 1.1}
        keys.append(Line2D([], [], marker="o", markersize=4.5, label=_named(others, "other bounds"), **ring, **mark))
    keys.append(Line2D([], [], color=style.MUTED, alpha=0.38, linewidth=3.2, label="price of the message"))
    if (best["gap_sampling"] > 0).any():
        keys.append(Line2D([], [], color=style.MUTED, linewidth=1.2, linestyle=":", label="price of sampling"))
    keys.append(Line2D([], [], marker="_", markersize=9, markeredgewidth=1.8, label="empirical risk", **mark))
    panels.legend(axes, keys)


def _named(bounds: pl.Series, many: str) -> str:
    """The name of the only bound, or `many`: a long list would leave no room for the figure."""
    return str(bounds[0]) if len(bounds) == 1 else many


# --- bound against alpha ----------------------------------------------------------------------------------------------


def draw_bound_by_alpha(table: pl.DataFrame) -> Figure:
    """Best bound without centres at every smoothing weight, the chosen one as a dot, the empirical risk dashed."""
    corpora = table["corpus"].unique(maintain_order=True).to_list()
    figure, each = panels.make(len(corpora), height=3.7)
    for axes, corpus in zip(each, corpora, strict=True):
        rows = table.filter(pl.col("corpus") == corpus)
        colours = style.colours(rows["label"].to_list())
        guess = panels.extent(rows["random_guess"])[1]
        axes.set_xscale("log")
        _draw_alpha_lines(axes, rows, colours)
        axes.set_xlim(*panels.extent(rows["alpha"]))
        axes.set_ylim(0.9 * panels.extent(rows["empirical"])[0], 1.08 * guess)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.set_xlabel("smoothing weight α (share of the uniform distribution)")
        axes.set_ylabel("bits per token")
        panels.guess_line(axes, guess, "right")
        panels.title(axes, corpus, len(corpora))
        _alpha_key(axes)
        figure.canvas.draw()
        ends = rows.filter(pl.col("alpha") == rows["alpha"].max()).sort("value").unique("label", keep="first")
        ends = ends.filter(pl.col("value") < 1.08 * guess).sort("value")
        style.label_ends(
            axes, [(row["alpha"], row["value"], row["label"], colours[row["label"]]) for row in ends.to_dicts()]
        )
    return figure


def _draw_alpha_lines(axes: Axes, rows: pl.DataFrame, colours: dict[str, str]) -> None:
    for label, colour in colours.items():
        line = rows.filter(pl.col("label") == label)
        best = line.filter(pl.col("certified")).sort("value")["bound"][0]
        line = line.filter(pl.col("bound") == best).sort("alpha")
        axes.plot(line["alpha"], line["value"], color=colour, linewidth=1.6)
        axes.plot(line["alpha"], line["empirical"], color=colour, linewidth=0.9, linestyle=(0, (3, 2)), alpha=0.7)
        dot = line.filter(pl.col("certified"))
        axes.plot(dot["alpha"], dot["value"], "o", markersize=6, color=colour, clip_on=False, zorder=3.5)
        points = [
            (alpha, value, f"{label}, α {alpha:g}: {format_value(BPD, value)}")
            for alpha, value in line.select("alpha", "value").iter_rows()
        ]
        hover.mark_points(axes, points, colour)


def _alpha_key(axes: Axes) -> None:
    grey: dict[str, Any] = {"color": style.MUTED}
    dashed: dict[str, Any] = {"linestyle": (0, (3, 2)), "linewidth": 0.9}
    keys = [
        Line2D([], [], linewidth=1.6, label="bound", **grey),
        Line2D([], [], marker="o", markersize=6, linestyle="none", label="chosen weight", **grey),
        Line2D([], [], label="empirical risk", **dashed, **grey),
    ]
    panels.legend(axes, keys)


# --- loss by position -------------------------------------------------------------------------------------------------


def draw_loss_by_position(table: pl.DataFrame) -> Figure:
    """Mean raw loss and entropy by tokens before in the document (left) and by tokens visible to the model (right)."""
    corpora = table["corpus"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(panels.WIDTH_INCHES, 3.5 * len(corpora)), layout="constrained")
    grid = figure.subplots(len(corpora), 2, sharey="row", squeeze=False)
    for pair, corpus in zip(grid, corpora, strict=True):
        rows = table.filter((pl.col("corpus") == corpus) & (pl.col("tokens") >= _MIN_TOKENS_DRAWN))
        colours = style.colours(rows["label"].to_list())
        for axes, axis in zip(pair, ("document", "window"), strict=True):
            _draw_position_panel(axes, rows.filter(pl.col("axis") == axis), colours)
        pair[0].set_xlabel("position in the document (1: first token)")
        pair[1].set_xlabel("position in the window (1: no context)")
        pair[0].set_ylabel("bits per token")
        panels.title(pair[0], corpus, len(corpora))
        if rows["entropy_bits"].count():
            loss = Line2D([], [], color=style.MUTED, linewidth=1.5, label="raw loss")
            entropy = Line2D([], [], color=style.MUTED, label="entropy of the prediction", **_ENTROPY)
            panels.legend(pair[1], [loss, entropy])
        figure.canvas.draw()
        # Entropies have no label of their own: matplotlib's begin with an underscore.
        ends = [line for line in pair[1].get_lines() if len(line.get_xdata()) and line.get_label()[0] != "_"]
        labels = [(line.get_xdata()[-1], line.get_ydata()[-1], line.get_label(), line.get_color()) for line in ends]
        style.label_ends(pair[1], labels)
    return figure


def _draw_position_panel(axes: Axes, rows: pl.DataFrame, colours: dict[str, str]) -> None:
    axes.set_xscale("log")
    for label, colour in colours.items():
        line = rows.filter(pl.col("label") == label).sort("first")
        middle = ((line["first"] + 1) * (line["last"] + 1)).sqrt()
        axes.plot(middle.to_numpy(), line["nll_bits"].to_numpy(), color=colour, label=label, linewidth=1.5)
        if line["entropy_bits"].count():
            axes.plot(middle.to_numpy(), line["entropy_bits"].to_numpy(), color=colour, **_ENTROPY)
        points = [
            (x, loss, f"{label}, positions {first + 1:,} to {last + 1:,}: {loss:.3f} over {tokens:,} tokens")
            for x, (first, last, loss, tokens) in zip(
                middle, line.select("first", "last", "nll_bits", "tokens").iter_rows(), strict=True
            )
        ]
        hover.mark_points(axes, points, colour)
    axes.set_xlim(left=1)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


# --- training and anatomy ---------------------------------------------------------------------------------------------


def draw_training(table: pl.DataFrame) -> Figure:
    """Training loss against step: every record faintly, a running mean on top, models named at their ends."""
    figure, (axes,) = panels.make(1, height=3.4)
    colours = style.colours(table["model"].to_list())
    labels = []
    for model, colour in colours.items():
        curve = table.filter(pl.col("model") == model)
        window = max(1, curve.height // 40)
        smooth = curve["loss_bits"].rolling_mean(window, min_samples=1, center=True)
        axes.plot(curve["step"], curve["loss_bits"], color=colour, linewidth=0.6, alpha=0.3)
        axes.plot(curve["step"], smooth, color=colour, linewidth=1.6)
        points = [
            (step, loss, f"{model}, step {step:,}: {loss:.3f} bits per token")
            for step, loss in list(zip(curve["step"], smooth, strict=True))[:: max(1, curve.height // 40)]
        ]
        hover.mark_points(axes, points, colour)
        labels.append((curve["step"][-1], smooth[-1], model, colour))
    axes.set_xlim(left=0)
    axes.set_xlabel("training step")
    axes.set_ylabel("training loss, bits per token")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.canvas.draw()
    style.label_ends(axes, labels)
    return figure


def draw_message_anatomy(table: pl.DataFrame) -> Figure:
    """What each message's bits are spent on: one bar per message, divided by part, with the total size next to it."""
    labels = table["label"].unique(maintain_order=True).to_list()
    parts = sorted(table["part"].unique(), key=figure_data.part_order)
    colours = style.colours(sorted(parts, key=lambda part: part != "symbols"))
    figure, (axes,) = panels.make(1, height=0.9 + 0.34 * len(labels))
    for height, label in enumerate(labels):
        left, rows = 0.0, table.filter(pl.col("label") == label)
        for row in sorted(rows.iter_rows(named=True), key=lambda row: figure_data.part_order(row["part"])):
            (bar,) = axes.barh(height, row["share"], left=left, height=0.62, color=colours[row["part"]], linewidth=0)
            hover.say(bar, f"{label}, {row['part']}: {row['size_bits']:,} bits ({100 * row['share']:.1f} %)")
            left += row["share"]
        axes.text(1.015, height, format_bytes(int(rows["size_bits"].sum())), va="center", fontsize=9)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.set_xlabel("share of the message's bits")
    panels.legend(axes, [Patch(color=colours[part], linewidth=0, label=part) for part in parts])
    return figure
