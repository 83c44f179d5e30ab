"""What happened to the sequences of a source: counted while they are read, written into the manifest."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from typing import Any

_log = logging.getLogger(__name__)


class ReadingCounts:
    """Named counts in named groups, e.g. `dropped: {unproductive: 12}`.

    `sequences.read` is always `sequences.kept` plus the sum of `dropped`; a pair counts as two sequences.

    Attributes
    ----------
    warnings
        What a user should look at, in sentences.
    """

    def __init__(self) -> None:
        self._groups: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.warnings: list[str] = []

    def add(self, group: str, name: str, amount: int = 1) -> None:
        """Add `amount` to one count."""
        if amount:
            self._groups[group][name] += amount

    def warn(self, text: str) -> None:
        """Log a warning and keep it for the manifest."""
        _log.warning("%s", text)
        self.warnings.append(text)

    def get(self, group: str, name: str) -> int:
        """One count; 0 if nothing was counted under that name."""
        return self._groups[group][name] if group in self._groups else 0

    def to_dict(self) -> dict[str, Any]:
        """All counts and warnings, as JSON values; empty if nothing was counted."""
        groups: dict[str, Any] = {group: dict(sorted(counts.items())) for group, counts in sorted(self._groups.items())}
        return {**groups, "warnings": self.warnings} if groups else {}
