"""How certificates, messages and checks look in a terminal. Values come from the files; nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenbounds.bounds.statement import state_result
from tokenbounds.rounding import round_up

_HASH_CHARACTERS = 16
_SAMPLING_ENTRIES = ("delta_generalization", "delta_sampling", "sampling_cells")
_HEADINGS = {
    "random_guess": "guess",
    "delta_generalization": "for bound",
    "delta_sampling": "for sample",
    "sampling_cells": "cells",
    "alpha_grid": "α grid",
    "lambda_grid": "λ grid",
    "confidence": "ln 1/delta",
    "complexity": "L",
}


def show_certificate(console: Console, certificate: dict[str, Any]) -> None:
    """Print a certificate: its sentence, its rows, and where each number comes from."""
    title = Text.assemble((certificate["certificate"], "bold"), f"  study {certificate['study']}")
    console.print(title)
    console.print(Padding(Text(state_result(certificate)), (1, 2), expand=False))
    _section(console, "Bounds", _rows_table(certificate["rows"]))
    _section(console, "Message", _breakdown_table(certificate["message"]["breakdown"]))
    _section(console, f"Failure probability: {certificate['delta']:g} in all", _ledger_table(certificate["ledger"]))
    _section(console, "Evidence", _hash_table(certificate))
    _section(console, "Assumptions", _list(certificate["assumptions"]))
    if certificate["notes"]:
        _section(console, "Notes", _list(certificate["notes"]))


def show_statement(console: Console, statement: Any) -> None:
    """Print bounds that belong to no certificate: rows, ledger and notes."""
    _section(console, "Bounds", _rows_table(statement.rows))
    _section(console, f"Failure probability: {statement.ledger['delta']} in all", _ledger_table(statement.ledger))
    if statement.notes:
        _section(console, "Notes", _list(statement.notes))


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
    console.print(Padding(table, (0, 0, 1, 2), expand=False))


def _section(console: Console, title: str, body: RenderableType) -> None:
    console.print(Text(title, style="bold"))
    console.print(Padding(body, (0, 0, 1, 2), expand=False))


def _grid() -> Table:
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0))


def _list(sentences: list[str]) -> Group:
    table = _grid()
    for number, sentence in enumerate(sentences, 1):
        table.add_row(str(number), Text(sentence))
    return Group(table)


def _rows_table(rows: list[dict[str, Any]]) -> Table:
    """The rows; columns that would be zero or empty throughout are left out."""
    sampled, vacuous = any(row["sampling"] for row in rows), any(row["vacuous"] for row in rows)
    numbers = ["value", "empirical", "gap", *(["sampling"] if sampled else []), "random_guess"]
    table = _columns(["metric", "bound"], [*(_HEADINGS.get(name, name) for name in numbers), "α", "λ"])
    if vacuous:
        table.add_column("")
    for row in rows:
        choices = ["" if row[key] is None else f"{row[key]:.4g}" for key in ("alpha", "lambda")]
        verdict = [Text("vacuous" if row["vacuous"] else "", style="yellow")] if vacuous else []
        table.add_row(row["metric"], row["bound"], *(round_up(row[name], 4) for name in numbers), *choices, *verdict)
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
    """What each row pays; how its delta is split is shown only if a sample took part of it."""
    entries = [row["entries"] for row in ledger["rows"]]
    sampled = any(entry["name"] == "delta_sampling" and entry["amount"] != "0" for row in entries for entry in row)
    shown = [i for i, entry in enumerate(entries[0]) if sampled or entry["name"] not in _SAMPLING_ENTRIES]
    headings = [_HEADINGS.get(entries[0][i]["name"], entries[0][i]["name"]) for i in shown]
    units = [entries[0][i]["unit"] if entries[0][i]["unit"] in ("bits", "nats") else "" for i in shown]
    table = _columns(["row"], [f"{heading}\n{unit}" for heading, unit in zip(headings, units, strict=True)])
    for row, parts in zip(ledger["rows"], entries, strict=True):
        amounts = (parts[i]["amount"] for i in shown)
        cells = (f"{amount:,.4g}" if isinstance(amount, float) else f"{amount}" for amount in amounts)
        table.add_row(f"{row['metric']} {row['bound']}", *cells)
    return table


def _columns(left: list[str], right: list[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _hash_table(certificate: dict[str, Any]) -> Table:
    table = _grid()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    manifest = certificate["manifest"]
    records = [certificate["message"], manifest, manifest["documents_file"], *manifest["shards"]]
    for record in [*records, certificate["plan"], *certificate["scores"]]:
        table.add_row(Text(record["sha256"][:_HASH_CHARACTERS], style="dim"), record["file"])
    own = certificate["certificate_sha256"][:_HASH_CHARACTERS]
    table.add_row(Text(own, style="dim"), "this certificate without its own hash")
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
