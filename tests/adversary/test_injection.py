"""Names given by strangers can control neither the terminal nor a spreadsheet."""

import io

import polars as pl
import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tokenbounds.report.spreadsheet import to_csv
from tokenbounds.terminal import SafeConsole

pytestmark = pytest.mark.adversary
NAMES = [
    "\x1b]0;owned\x07",
    "\x1b[2J",
    "\x9b31m",
    "\u202etxt",
    "a\rb",
    "\x00",
    "[red]x[/red]",
    "[link=http://a]b[/link]",
    ":bomb:",
]


def shown(console, name):
    table = Table()
    table.add_row(name, Text(name))
    console.print(table)
    console.print(name)
    return console.file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_the_terminal_obeys_no_name(name):
    text = shown(SafeConsole(file=io.StringIO(), width=100), name)
    assert not any(each in text for each in "\x1b\x07\x9b\u202e\r\x00")
    if "\x00" < name[0] < "\x7f" and name.isprintable():
        assert text.count(name) == 3


def test_rich_alone_obeys():
    assert "\x1b]0;" in shown(Console(file=io.StringIO(), width=100), NAMES[0])
    assert "[red]" not in Text.from_markup(NAMES[6]).plain


def test_colours_are_still_there():
    console = SafeConsole(file=io.StringIO(), force_terminal=True)
    console.print(Text("✓", style="green"))
    assert "\x1b[32m✓" in console.file.getvalue()


def test_errors_are_shown_as_they_are(run, tmp_path):
    status, _, err = run("verify", tmp_path / "\x1b]0;owned\x07[red].json")
    assert status == 1 and "\x1b" not in err and "[red].json" in err


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_sees_no_formula(cell):
    table = pl.DataFrame({"name": [cell, "plain-1", None], "value": [-1.5, 2.0, None]})
    back = pl.read_csv(to_csv(table))
    assert back["name"].to_list() == [f"'{cell}", "plain-1", None]
    assert back["value"].to_list() == [-1.5, 2.0, None]
