"""How figures look: one palette, one set of sizes, and files with the same bytes every time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from tokenbounds.files import atomic_path
from tokenbounds.report.drawing import Axes, Figure, rc_context, rcParamsDefault
from tokenbounds.report.hover import hide_points, titled
from tokenbounds.report.spreadsheet import write_tables

SCHEMA_VERSION = 1  # of the figures' Parquet files

# Each colour has one role, so the page can restyle a figure for a dark background by replacing colours.
INK = "#20242b"
MUTED = "#6b7280"
RULE = "#d8dbe0"
PAPER = "#ffffff"
# Okabe and Ito's colours for colour-blind readers, darkened a little for text on white; then greys.
SERIES = ("#0b6bb0", "#c8500a", "#08835f", "#b0578a", "#8a6a00", "#3a8fc4", "#7a4fb5", "#7f7f7f")
_OFFSETS = [
    sign * 12 * step for step in range(1, 13) for sign in (1, -1)
]  # of labels from marks, points, nearest first
_Box = tuple[float, float, float, float]  # left, right, bottom, top, points
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_FONT_STACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_TRIM: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.08}
_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "tokenbounds",
    "path.simplify": False,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """A context for drawing: matplotlib's settings for the project, restored afterwards."""
    settings: Any = {**rcParamsDefault, "backend": "agg", **_SETTINGS}
    with rc_context(settings):
        yield


def colours(names: Sequence[str]) -> dict[str, str]:
    """One colour for each distinct name, in order of appearance; names beyond the palette share its last, a grey."""
    distinct = list(dict.fromkeys(names))
    return {name: SERIES[min(index, len(SERIES) - 1)] for index, name in enumerate(distinct)}


def marks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each distinct name, in order of appearance; no two of the first 49 are alike."""
    distinct, hues = list(dict.fromkeys(names)), SERIES[:-1]
    return {
        name: (hues[index % len(hues)], _MARKERS[index // len(hues) % len(_MARKERS)])
        for index, name in enumerate(distinct)
    }


def save(figure: Figure, table: pl.DataFrame, directory: Path, name: str) -> Path:
    """Write `name`.svg, .png, .parquet and .csv into `directory`; the same input gives the same bytes.

    Returns
    -------
    Path
        The SVG.
    """
    svg = directory / f"{name}.svg"
    with atomic_path(svg) as temporary:
        figure.savefig(
            temporary, format="svg", bbox_inches="tight", pad_inches=0.08, metadata={"Date": None, "Creator": None}
        )
        # Comments repeat texts. The reader's own sans-serif face sets the text.
        text = re.sub(r"<!--.*?-->\s*", "", temporary.read_text(encoding="utf-8"), flags=re.DOTALL)
        temporary.write_text(titled(text.replace("'DejaVu Sans'", _FONT_STACK)), encoding="utf-8")
    hide_points(figure)
    with atomic_path(directory / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=180, metadata={"Software": None}, **_TRIM)
    write_tables({name: table}, directory, SCHEMA_VERSION)
    return svg


def draw_again(wanted: Sequence[tuple[str, pl.DataFrame, Callable[[pl.DataFrame], Figure]]], directory: Path) -> None:
    """Replace the files figure_* of a folder by figures of these names, tables and functions that draw them.

    A figure's own rows are next to it; the whole table keeps its name.
    """
    for stale in directory.glob("figure_*"):
        stale.unlink()
    with figure_style():
        for name, table, draw in wanted:
            save(draw(table), table, directory, f"figure_{name}")


def spread(positions: Sequence[float], distance: float) -> list[float]:
    """Move label positions apart until neighbours are `distance` apart, each as little as possible.

    Labels that would overlap form a block that is centred on the mean of its members' wishes (the pool-adjacent-
    violators solution of the least-squares problem).
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        block = (positions[index] - rank * distance, 1)
        while blocks and blocks[-1][0] >= block[0]:
            mean, size = blocks.pop()
            block = ((mean * size + block[0] * block[1]) / (size + block[1]), size + block[1])
        blocks.append(block)
    wishes = [mean for mean, size in blocks for _ in range(size)]
    result = [0.0] * len(positions)
    for rank, index in enumerate(order):
        result[index] = wishes[rank] + rank * distance
    return result


def label_ends(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write labels to the right of points, apart from each other, each joined to its point if it had to move.

    Parameters
    ----------
    axes
        Axes whose limits are final; texts go beyond its right edge.
    labels
        (x, y, text, colour) of each label, in data coordinates.
    """
    if not labels:
        return
    figure = _figure_of(axes)
    height_points = axes.get_window_extent().height / figure.dpi * 72
    to_axes = axes.transLimits.transform
    points = [axes.transScale.transform((x, y)) for x, y, _, _ in labels]
    places = [to_axes(point) for point in points]
    leader: dict[str, Any] = {
        "arrowstyle": "-",
        "linewidth": 0.6,
        "alpha": 0.45,
        "shrinkA": 2,
        "shrinkB": 4,
        "relpos": (0, 0.5),
    }
    heights = spread([float(place[1]) for place in places], 12.5 / height_points)
    for (_, _, text, colour), place, height in zip(labels, places, heights, strict=True):
        axes.annotate(
            text,
            xy=(float(place[0]), float(place[1])),
            xytext=(1.03, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=colour,
            arrowprops=leader | {"color": colour},
            annotation_clip=False,
        )


def label_marks(
    axes: Axes, labels: Sequence[tuple[float, float, str, str]], marks: Sequence[tuple[float, float]]
) -> None:
    """Write each label near its point, at the nearest free height: clear of the marks and of the other labels.

    Parameters
    ----------
    axes
        Axes whose limits and texts are final.
    labels
        (x, y, text, colour) of each label, in data coordinates.
    marks
        Points (x, y) to stay clear of, in data coordinates.
    """
    figure = _figure_of(axes)
    figure.canvas.draw()
    scale = 72 / figure.dpi
    frame = axes.get_window_extent()
    taken: list[_Box] = []
    for x, y in axes.transData.transform(list(marks)) * scale:
        taken.append((x - 6, x + 6, y - 4, y + 4))
    for x, y, text, colour in labels:
        anchor_x, anchor_y = axes.transData.transform((x, y)) * scale
        half = 2.9 * len(text)
        centre = min(max(anchor_x, frame.x0 * scale + half), frame.x1 * scale - half)
        box = (centre - half, centre + half, anchor_y - 5.5, anchor_y + 5.5)
        offset = _free_offset(box, frame.y0 * scale, frame.y1 * scale, taken)
        taken.append((box[0], box[1], box[2] + offset, box[3] + offset))
        shift = (centre - anchor_x, offset)
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": colour, "zorder": 4}
        axes.annotate(text, (x, y), xytext=shift, textcoords="offset points", **look)


def _free_offset(box: _Box, low: float, high: float, taken: Sequence[_Box]) -> int:
    """How far up or down a box goes to be free between `low` and `high`, points; if nowhere is free, between them."""
    moved = {offset: (box[0], box[1], box[2] + offset, box[3] + offset) for offset in _OFFSETS}
    inside = [offset for offset in _OFFSETS if low < moved[offset][2] and moved[offset][3] < high]
    free = [offset for offset in inside if not any(_overlap(moved[offset], other) for other in taken)]
    return [*free, *inside, *_OFFSETS][0]


def _figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]
