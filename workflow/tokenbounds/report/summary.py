"""What a finished run prints: its certificates, and where the report is."""

from __future__ import annotations

from pathlib import Path

from tokenbounds.config import Study
from tokenbounds.config.graph import report
from tokenbounds.display import wait_until_still
from tokenbounds.report.tables import print_table


def print_summary(study: Study) -> None:
    """Print all certificates, made by this run or an earlier one; nothing if there are none yet."""
    certificates = [path for path in map(Path, report(study).certificates) if path.is_file()]
    page = Path(study.results) / "report.html"
    wait_until_still()
    if certificates:
        print_table(certificates, page if page.is_file() else None)
