"""Values that a figure shows under the pointer: titles of SVG elements, which need no script."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenbounds.report.drawing import Artist, Axes, Figure

_MARK = "value: "
_GROUP = re.compile(rf'<g id="{_MARK}([^"]*)">')


def say(artist: Artist, text: str) -> None:
    """Let `text` appear where the pointer is over an artist, once the figure is written by `style.save`."""
    artist.set_gid(_MARK + text)  # what the SVG writer has for names of groups; `titled` makes it a title


def mark_points(axes: Axes, points: Iterable[tuple[float, float, str]], colour: str) -> None:
    """Mark points (x, y, what is said there) of a line with dots that are seen only under the pointer."""
    for x, y, text in points:
        dot = axes.scatter([x], [y], s=49, color=colour, linewidths=0, alpha=0, zorder=5)
        dot.set_in_layout(False)  # the line that it marks is laid out already
        say(dot, text)


def hide_points(figure: Figure) -> None:
    """Leave out the dots of `mark_points` from here on: a picture without a pointer need not draw them."""
    for artist in figure.findobj(lambda each: (each.get_gid() or "").startswith(_MARK) and each.get_alpha() == 0):
        artist.set_visible(False)


def titled(svg: str) -> str:
    """An SVG file's text with the titles of everything that says something."""
    return _GROUP.sub(r'<g class="value"><title>\1</title>', svg)
