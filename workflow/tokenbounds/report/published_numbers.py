"""A study's numbers beside published ones: bounds against message size, and losses against trained parameters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from tokenbounds.errors import TokenboundsError
from tokenbounds.report import figure_data, panels, style
from tokenbounds.report.drawing import Figure, Line2D
from tokenbounds.report.records import read_certificates

FIGURE = "beside_published"
_COLUMNS: dict[str, Any] = {
    "series": pl.String(),
    "label": pl.String(),
    "message_bytes": pl.Float64(),
    "empirical_bits": pl.Float64(),
    "bound_bits": pl.Float64(),
}
_LOSS_COLUMNS: dict[str, Any] = {
    "series": pl.String(),
    "label": pl.String(),
    "trained_parameters": pl.Int64(),
    "empirical_bits": pl.Float64(),
}
_OURS = "this study"


def draw_beside_published(
    certificate_paths: Iterable[Path | str], published: Path | str, directory: Path | str
) -> Path:
    """Write the figure and its data into `directory`.

    Parameters
    ----------
    certificate_paths
        Of the study.
    published
        A table of published numbers; see `read_published`.

    Raises
    ------
    TokenboundsError
        If a certificate or the table cannot be read.
    """
    own = own_numbers(figure_data.size_table(read_certificates(certificate_paths)))
    table = pl.concat([own, read_published(published)])
    with style.figure_style():
        return style.save(draw_numbers(table), table, Path(directory), FIGURE)


def read_published(path: Path | str) -> pl.DataFrame:
    """Published numbers: a CSV file whose comments (`#`) say where they are from.

    Columns: `series` (a line of the figure), `label`, `message_bytes`, `empirical_bits` and `bound_bits` per token.

    Raises
    ------
    TokenboundsError
        If the file cannot be read, or a column is missing or holds anything else.
    """
    return _read(path, _COLUMNS, "message_bytes")


def read_published_losses(path: Path | str) -> pl.DataFrame:
    """Published losses: a CSV file whose comments (`#`) say where they are from.

    Columns: `series` (a line of the figure), `label`, `trained_parameters`, and `empirical_bits` per token.

    Raises
    ------
    TokenboundsError
        If the file cannot be read, or a column is missing or holds anything else.
    """
    return _read(path, _LOSS_COLUMNS, "trained_parameters")


def _read(path: Path | str, columns: dict[str, Any], size: str) -> pl.DataFrame:
    try:
        table = pl.read_csv(path, comment_prefix="#", schema_overrides=columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        what = str(error).splitlines()[0]
        raise TokenboundsError(f"{path} is no table of published numbers: {what:.200}.") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise TokenboundsError(f"{path} has no column '{missing[0]}'. It needs {', '.join(columns)}.")
    table = table.select(*columns)
    if not table.height or any(table.null_count().row(0)) or not (table[size] > 0).all():
        raise TokenboundsError(f"{path} has an empty cell, or a {size} of nothing. Fill in every column.")
    return table


def own_numbers(sizes: pl.DataFrame) -> pl.DataFrame:
    """The best bound of each certificate in `figure_data.size_table`, in the columns of published numbers."""
    best = sizes.sort("value").unique("certificate", keep="first", maintain_order=True)
    return best.select(
        series=pl.lit(_OURS),
        label="label",
        message_bytes=pl.col("message_bits") / 8,
        empirical_bits="empirical",
        bound_bits="value",
    )


def draw_numbers(table: pl.DataFrame) -> Figure:
    """Bounds as dots over what was measured; published ones hollow, a line through each series."""
    figure, (axes,) = panels.make(1, height=4.4)
    axes.set_xscale("log")
    names = table["series"].unique(maintain_order=True).to_list()
    # As high as published bounds need; one of ours far above them is a triangle at the edge.
    ceiling = 1.5 * float(table.filter(pl.col("series") != _OURS)["bound_bits"].max())  # type: ignore[arg-type]
    ceiling = min(ceiling, 1.08 * float(table["bound_bits"].max()))  # type: ignore[arg-type]
    colours = style.colours(names)
    keys = []
    for name in names:
        rows, colour = table.filter(pl.col("series") == name).sort("message_bytes"), colours[name]
        face = colour if name == _OURS else style.PAPER
        dots: dict[str, Any] = {"marker": "o", "markersize": 5.5, "markerfacecolor": face, "color": colour}
        line: Any = "none" if name == _OURS else "-"
        inside, outside = rows.filter(pl.col("bound_bits") < ceiling), rows.filter(pl.col("bound_bits") >= ceiling)
        axes.plot(inside["message_bytes"], inside["bound_bits"], linestyle=line, linewidth=1.0, zorder=3, **dots)
        beyond = [ceiling] * outside.height
        axes.plot(outside["message_bytes"], beyond, "^", color=colour, markersize=7, clip_on=False, zorder=3)
        for row in rows.iter_rows(named=True):
            size, ends = row["message_bytes"], (row["empirical_bits"], min(row["bound_bits"], ceiling))
            axes.plot([size, size], ends, color=colour, alpha=0.3, linewidth=2.4, zorder=2)
        dash: dict[str, Any] = {"markersize": 8, "markeredgewidth": 1.6, "zorder": 2.5}
        axes.plot(rows["message_bytes"], rows["empirical_bits"], "_", color=colour, **dash)
        keys.append(Line2D([], [], linestyle=line, linewidth=1.0, label=name, **dots))
    low, high = float(table["message_bytes"].min()), float(table["message_bytes"].max())  # type: ignore[arg-type]
    axes.set_xlim(low / 1.4, high * 1.4)
    axes.set_ylim(0, ceiling)
    panels.size_axis(axes)
    axes.set_ylabel("bits per token: bound (dot), measured (dash)")
    panels.legend(axes, keys)
    return figure
