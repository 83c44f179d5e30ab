"""A terminal that shows untrusted texts and obeys none of them.

Names in certificates, headers of messages and paths in errors may hold escape sequences (which rename windows, fill the
clipboard, hide lines), rich's markup, or marks that change the direction of writing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
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


@contextmanager
def progress_bar(console: Console) -> Iterator[None]:
    """Show what the library logs about its progress, time left included, as a bar while the block runs.

    Without a terminal nothing is shown.
    """
    if not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    logger = logging.getLogger("tokenbounds")
    level = logger.level
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading the model", total=1.0)

        class Shown(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                share = getattr(record, "share_done", None)
                progress.update(task, description=record.getMessage(), completed=share)

        handler = Shown(logging.INFO)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
