"""A terminal that shows untrusted texts and obeys none of them.

Names in certificates, headers of messages and paths in errors may hold escape sequences (which rename windows, fill the
clipboard, hide lines), rich's markup, or marks that change the direction of writing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class SafeConsole(Console):
    """rich's console; texts are never markup, and characters that a terminal obeys are shown as �.

    Colours come from styles alone, which rich adds behind this.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Lay something out, as rich does."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_COMMANDS.sub("�", segment.text), segment.style)
