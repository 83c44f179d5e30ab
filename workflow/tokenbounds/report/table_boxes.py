"""What every table of the page gets: a box of its own to scroll in, by keyboard too, and a download as CSV.

The CSV is inside the link, so that the page stays one file that loads nothing.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import quote

from tokenbounds.report.spreadsheet import rows_to_csv

_BOX = re.compile(r'<div\s+class="wide">\s*(<table\b.*?</table>)\s*</div>', re.DOTALL)
_ID = re.compile(r'<(?:section|article)\s[^>]*\bid="([^"]+)"')
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")


def box_tables(html: str) -> str:
    """Give each `<div class="wide">` around a table a name, the keyboard's focus, and a link that downloads the table.

    A table is named by the section or article that it is in, and its number there: `cert-lora-2`. Cells are written as
    they are shown, without separators of thousands; one with `data-value`, or with a `<data>` element, as that value,
    which is the exact one.

    Parameters
    ----------
    html
        A page whose texts are escaped, so that tags are those of templates.
    """
    counts: dict[str, int] = {}

    def boxed(match: re.Match[str]) -> str:
        owner = next((found.group(1) for found in reversed(list(_ID.finditer(html, 0, match.start())))), "table")
        counts[owner] = counts.get(owner, 0) + 1
        name = f"{owner}-{counts[owner]}"
        data = quote(rows_to_csv(table_rows(match.group(1))))
        return (
            f'<div class="wide" tabindex="0" role="group" aria-label="Table {name}">{match.group(1)}</div>'
            f'<p class="download"><a download="{name}.csv" href="data:text/csv;charset=utf-8,{data}">'
            f'Download as CSV<span class="hidden">: table {name}</span></a></p>'
        )

    return _BOX.sub(boxed, html)


def table_rows(table: str) -> list[list[str]]:
    """The cells of a table's HTML, row by row, as a file should have them."""
    reader = _Cells()
    reader.feed(table)
    return [[_plain(cell) for cell in row] for row in reader.rows]


def _plain(cell: str) -> str:
    text = " ".join(cell.split())  # no-break spaces too
    return "" if text == "–" else text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


class _Cells(HTMLParser):
    """Texts of `td` and `th` by row; a `data-value` or the value of a `data` element stands for what is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = self._exact = self._in_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._in_cell, exact = True, values.get("data-value")
            self._exact = exact is not None
            self.rows[-1].append(exact or "")
        elif tag == "data" and self._in_cell and not self._exact:
            self._in_data = True
            self.rows[-1][-1] += values.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False
        elif tag == "data":
            self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_cell and not self._exact and not self._in_data:
            self.rows[-1][-1] += data
