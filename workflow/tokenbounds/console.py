"""How certificates, messages and checks look in a terminal. Values come from the files; nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenbounds.bounds.statement import state_result

_HASH_CHARACTERS = 16


def show_certificate(console: Console, certificate: dict[str, Any]) -> None:
    """Print a certificate: its sentence, its rows, and where each number comes from."""
    title = Text.assemble((certificate["certificate"], "bold"), f"  study {certificate['study']}")
    console.print(title)
    console.print(Padding(Text(state_result(certificate)), (1, 2)))
    _section(console, "Bounds", _rows_table(certificate))
    _section(console, "Message", _breakdown_table(certificate["message"]["breakdown"]))
    _section(console, f"Failure probability: {certificate['delta']:g} in all", _ledger_table(certificate["ledger"]))
    _section(console, "Evidence", _hash_table(certificate))
    _section(console, "Assumptions", _list(certificate["assumptions"]))
    if certificate["notes"]:
        _section(console, "Notes", _list(certificate["notes"]))


def show_message(console: Console, header: dict[str, Any], breakdown: dict[str, int]) -> None:
    """Print a message's header and where its bits go."""
    _section(console, "Header", _flat_table(header))
    _section(console, "Bits", _breakdown_table(breakdown))


def show_checks(console: Console, certificate_path: str, checks: Iterable[Any]) -> None:
    """Print one line for each check that passed."""
    table = _grid()
    for check in checks:
        table.add_row(Text("✓", style="green"), check.name, Text(check.detail, style="dim"))
    console.print(Text(certificate_path, style="bold"))
    console.print(Padding(table, (0, 0, 1, 2)))


def _section(console: Console, title: str, body: RenderableType) -> None:
    console.print(Text(title, style="bold"))
    console.print(Padding(body, (0, 0, 1, 2)))


def _grid() -> Table:
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0))


def _list(sentences: list[str]) -> Group:
    table = _grid()
    for number, sentence in enumerate(sentences, 1):
        table.add_row(str(number), Text(sentence))
    return Group(table)


def _rows_table(certificate: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("metric", "bound"):
        table.add_column(name)
    for name in ("value", "empirical", "gap", "sampling", "random guess", "α", "λ", "delta"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in certificate["rows"]:
        numbers = [row[key] for key in ("value", "empirical", "gap", "sampling", "random_guess")]
        choices = ["" if row[key] is None else f"{row[key]:.4g}" for key in ("alpha", "lambda", "delta")]
        verdict = Text("vacuous", style="yellow") if row["vacuous"] else Text("")
        table.add_row(row["metric"], row["bound"], *(f"{number:.4f}" for number in numbers), *choices, verdict)
    return table


def _breakdown_table(breakdown: dict[str, int]) -> Table:
    table = _grid()
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    total = sum(breakdown.values())
    for part, size_bits in breakdown.items():
        table.add_row(part, f"{size_bits:,} bits", f"{100 * size_bits / max(total, 1):.1f} %")
    table.add_row("total", f"{total:,} bits", f"{total // 8:,} bytes")
    return table


def _ledger_table(ledger: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("row")
    for entry in ledger["rows"][0]["entries"]:
        table.add_column(f"{entry['name'].replace('_', ' ')}\n{entry['unit']}", justify="right")
    for row in ledger["rows"]:
        amounts = (entry["amount"] for entry in row["entries"])
        cells = (f"{amount:,.6g}" if isinstance(amount, float) else str(amount) for amount in amounts)
        table.add_row(f"{row['metric']} {row['bound']}", *cells)
    return table


def _hash_table(certificate: dict[str, Any]) -> Table:
    table = _grid()
    manifest = certificate["manifest"]
    records = [certificate["message"], manifest, manifest["documents_file"], *manifest["shards"]]
    for record in [*records, certificate["plan"], *certificate["scores"]]:
        table.add_row(record["file"], Text(record["sha256"][:_HASH_CHARACTERS], style="dim"))
    table.add_row("this certificate", Text(certificate["certificate_sha256"], style="dim"))
    return table


def _flat_table(values: dict[str, Any], prefix: str = "") -> Table:
    table = _grid()
    for key, value in _flatten(values, prefix):
        table.add_row(key, str(value))
    return table


def _flatten(values: dict[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def show_study(console: Console, study: Any) -> None:
    """Print the rows of a checked configuration, by kind."""
    console.print(Text.assemble("study ", (study.study, "bold")))
    for section in ("corpora", "models", "messages", "evaluations", "certificates"):
        table = _grid()
        for name, row in getattr(study, section).items():
            table.add_row(name, Text(_one_line(row), style="dim"))
        _section(console, section, table)


def _one_line(row: Any) -> str:
    """The scalar settings of a configuration row, and the kinds of its parts."""
    parts = []
    for key, value in vars(row).items():
        kind = getattr(value, "kind", None)
        if kind is not None or isinstance(value, str | int | float):
            parts.append(f"{key}={kind if kind is not None else value}")
    return ", ".join(parts)
