"""Figures as part of a page: the SVG that `style.save` wrote, made safe to inline and to recolour."""

from __future__ import annotations

import re
from pathlib import Path

from markupsafe import Markup, escape

from tokenbounds.errors import TokenboundsError
from tokenbounds.report import style

_ROLES = {style.INK: "ink", style.MUTED: "muted", style.RULE: "rule", style.PAPER: "paper"}
_ROLES |= {colour: f"series-{index}" for index, colour in enumerate(style.SERIES)}
_ACTIVE = re.compile(
    r"<\s*(script|foreignObject|iframe|object|embed|image|animate|set|a)\b|\son\w+\s*=|@import|url\(\s*[\"']?(?!#)"
    r"|href\s*=\s*[\"'](?!#)|javascript:",
    re.IGNORECASE,
)


def inline_svg(path: Path | str, label: str) -> Markup:
    """The `<svg>` element of a file, its ids prefixed by the file's name and its colours turned into CSS variables.

    Parameters
    ----------
    path
        An SVG file written by `style.save`.
    label
        What the figure shows, for those who cannot see it.

    Raises
    ------
    TokenboundsError
        If the file cannot be read, is not an SVG, or holds anything active or a reference to another file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenboundsError(f"{path} cannot be read ({error}). Draw the figures again.") from error
    text = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    found = re.search(r"<svg\b[^>]*\bviewBox=\"([-\d. ]+)\"[^>]*>(.*)</svg>\s*$", text, flags=re.DOTALL)
    if found is None or _ACTIVE.search(text):
        raise TokenboundsError(f"{path} is not a figure of this project. Draw the figures again.")
    # Names within a figure begin with the figure's own: a page holds several.
    prefix = re.sub(r"[^\w-]", "-", path.stem)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', found.group(2))
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    for colour, role in _ROLES.items():
        body = re.sub(rf"(?<=: ){colour}\b", f"var(--{role})", body)
    body = re.sub(r"font-family: [^;\"]+; ?", "", body)
    view_box = found.group(1)
    return Markup('<svg viewBox="{}" role="img" aria-label="{}">{}</svg>').format(
        view_box, escape(label), Markup(body.strip())
    )
