"""How certificates, messages and checks look in a terminal. Values come from the files; nothing is computed here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenbounds.certificates.schema import Certificate, Ledger, LedgerEntry, LedgerRow, Row
from tokenbounds.certificates.sentence import name_models, state_faithfulness_in_words, state_result
from tokenbounds.messages.container import Header
from tokenbounds.rounding import round_down, round_up

if TYPE_CHECKING:
    from tokenbounds.certificates.checks import Check
    from tokenbounds.certificates.intervals import Interval, Question
    from tokenbounds.certificates.lm_eval import Answer
    from tokenbounds.certificates.lm_eval import Question as LmEvalQuestion
    from tokenbounds.certificates.rows.tokens import Statement
    from tokenbounds.config import Study

_HASH_CHARACTERS = 16
_DIGITS = 4
_SAMPLING_ENTRIES = ("delta_generalization", "delta_sampling", "sampling_cells", "certificates_per_sample")
_HEADINGS = {
    "delta_generalization": "for bound",
    "delta_sampling": "for sample",
    "sampling_cells": "cells",
    "certificates_per_sample": "shared by",
    "alpha_grid": "α grid",
    "centre_grid": "κ grid",
    "lambda_grid": "λ grid",
    "confidence": "ln 1/delta",
    "complexity": "L",
}


def show_certificate(console: Console, certificate: Certificate) -> None:
    """Print a certificate: its sentence, its rows, and where each number comes from."""
    console.print(Text.assemble((certificate.name, "bold"), f"  study {certificate.study}"))
    sentences = filter(None, (state_result(certificate), state_faithfulness_in_words(certificate)))
    console.print(Padding(Text("\n".join(sentences)), (1, 2), expand=False))
    _section(console, "Bounds", _rows_table(certificate.rows))
    if any(row.links for row in certificate.rows):
        _section(console, "Links", _links_tables(certificate.rows))
    _section(console, "Message", _breakdown_table(certificate.message.whole_breakdown))
    _section(console, f"Failure probability: {certificate.delta:g} in all", _ledger_tables(certificate.ledger))
    _section(console, "Evidence", _hash_table(certificate))
    _section(console, "Assumptions", _list(certificate.assumptions))
    if certificate.notes:
        _section(console, "Notes", _list(certificate.notes))
    console.print(
        Text(
            "None of this was verified: it is what the file says. `tokenbounds verify` takes it apart.",
            style="yellow",
        )
    )


def show_statement(console: Console, statement: Statement) -> None:
    """Print bounds that belong to no certificate: rows, ledger and notes."""
    _section(console, "Bounds", _rows_table(statement.rows))
    _section(console, f"Failure probability: {statement.ledger.delta} in all", _ledger_tables(statement.ledger))
    if statement.notes:
        _section(console, "Notes", _list(statement.notes))


def show_intervals(console: Console, intervals: Iterable[Interval], question: Question) -> None:
    """Print error bars: each quantity with its interval, and what the intervals are about."""
    about = (
        "They are about these contexts: what the next token costs on average if it is written afresh in each of them."
        if question.document_column is None
        else "They are about new documents of the source, if these documents are independent draws from it; long "
        "documents count for their length."
    )
    _show_interval_table(console, intervals, question.delta)
    notes = [
        about,
        f"Losses are smoothed: a share {question.alpha:g} of each prediction is uniform over "
        f"{question.vocabulary_size} tokens.",
        "They hold only if the model does not depend on this text. Nothing here can see whether it does.",
    ]
    _section(console, "What they say", _list(notes))


def show_lm_eval(console: Console, answer: Answer, question: LmEvalQuestion) -> None:
    """Print error bars of samples that lm-evaluation-harness logged, and what the intervals are about."""
    _show_interval_table(console, answer.intervals, question.delta)
    notes = [
        f"They are about new documents of the source, if these {answer.documents:,} are independent draws from it; in "
        "perplexities and bits per byte, long documents count for their length.",
        *(
            f"Assumed beforehand: at most {unit.longest:,} {name}s in a document, and at most {unit.ceiling:g} bits "
            f"per {name}."
            for name, unit in question.units.items()
        ),
        f"They hold for the model of a message of {question.bits:,} bits, whatever it was chosen by; each side pays "
        "for them."
        if question.bits
        else "They hold only if the model does not depend on these documents. Nothing here can see whether it does.",
    ]
    if answer.without:
        notes.append(f"Without interval: {', '.join(answer.without)}.")
    _section(console, "What they say", _list(notes))


def _show_interval_table(console: Console, intervals: Iterable[Interval], delta: float) -> None:
    table = _grid()
    table.show_header = True
    for name in ("", "measured", "from", "to"):
        table.add_column(name, justify="right" if name else "left")
    for each in intervals:
        ends = round_down(each.low, _DIGITS), round_up(each.high, _DIGITS)
        table.add_row(each.metric, f"{each.estimate:.{_DIGITS}f}", *ends)
    _section(console, f"Intervals, all true together with probability {1 - delta:g}", table)


def show_message(
    console: Console, header: Header, breakdown: dict[str, int], side_information: dict[str, str] | None = None
) -> None:
    """Print a message's header, where its bits go, and its side information."""
    _section(console, "Header", _flat_table(header))
    _section(console, "Bits", _breakdown_table(breakdown))
    if side_information:
        table = _grid()
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, found in side_information.items():
            table.add_row(name, found)
        _section(console, "Side information", table)


def show_checks(console: Console, certificate_path: str, checks: Iterable[Check], confined: Iterable[str] = ()) -> None:
    """Print one line for each check that passed, and for each that was not made; then how the verifier was confined."""
    table = _grid()
    for check in checks:
        if check.made:
            table.add_row(Text("✓", style="green"), check.name, Text(check.detail, style="dim"))
        else:
            table.add_row(Text("!", style="bold yellow"), Text(check.name, style="yellow"), Text(check.detail))
    console.print(Text(certificate_path, style="bold"))
    if ways := "; ".join(confined):
        table.add_row("", "confined", Text(ways, style="dim"))
    console.print(Padding(table, (0, 0, 1, 2), expand=False))


def show_encoding(console: Console, report: dict[str, Any], message: str) -> None:
    """Print what `tokenbounds encode` found: bits by part, bits of general compressors, loss before and after."""
    table = _grid()
    table.add_row("bits per value", f"{report['bits_per_parameter']:.4g}")
    for name, size_bits in report["symbols_compressed_bits"].items():
        table.add_row(f"symbols by {name}", f"{size_bits:,} bits")
    if "scored" in report:
        losses = report["scored"]["loss_bits"]
        table.add_row("loss before", f"{losses['before']:.4f} bits per token")
        table.add_row("loss after", f"{losses['after']:.4f} bits per token")
        table.add_row("KL to the original", f"{report['scored']['kl_bits']:.4f} bits per token")
        table.add_row("changed first choices", f"{report['scored']['changed_first_choices']:.1%}")
    _section(console, message, _breakdown_table(report["breakdown"]))
    console.print(Padding(table, (0, 0, 1, 2), expand=False))


def _section(console: Console, title: str, body: RenderableType) -> None:
    console.print(Text(title, style="bold"))
    console.print(Padding(body, (0, 0, 1, 2), expand=False))


def _grid() -> Table:
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0))


def _list(sentences: Sequence[str]) -> Table:
    table = _grid()
    for number, sentence in enumerate(sentences, 1):
        table.add_row(str(number), Text(sentence))
    return table


def _rows_table(rows: Sequence[Row]) -> Table:
    """The rows; columns that would be zero or empty throughout are left out."""
    sampled, vacuous = any(row.sampling for row in rows), any(row.vacuous for row in rows)
    centred, tolerant = any(row.kappa for row in rows), any(row.tolerance for row in rows)
    headings = ["value", "empirical", "gap", *(["sampling"] if sampled else []), *(["tolerance"] if tolerant else [])]
    headings += ["guess", "α", "λ"]
    headings += ["κ"] if centred else []
    table = _columns(["metric", "bound"], [*headings, *([""] if vacuous else [])])
    for row in rows:
        values = [row.value, row.empirical, row.gap, *([row.sampling] if sampled else [])]
        values += [*([row.tolerance] if tolerant else []), row.random_guess]
        alpha, lambda_ = ("" if choice is None else f"{choice:.4g}" for choice in (row.alpha, row.lambda_))
        verdict = [Text("vacuous" if row.vacuous else "", style="yellow")] if vacuous else []
        numbers = [round_up(value, 4) for value in values]
        choices = ["by token" if row.alphas else alpha, lambda_, *([f"{row.kappa:g}"] if centred else [])]
        table.add_row(row.metric, row.bound, *numbers, *choices, *verdict)
    return table


def _links_tables(rows: Sequence[Row]) -> Group:
    """A table for each row that uses the chain: what each link depends on, and its part of the row's value.

    Numbers keep their columns in narrow terminals; names of models and what they are mixed with are wrapped.
    """
    tables = []
    for row in (row for row in rows if row.links):
        table = _columns([f"{row.metric} {row.bound}"], ["β", "factor", "value", "empirical", "range", "λ", "κ"])
        table.columns[0].no_wrap = False
        for link in row.links:
            bounds = (round_up(number, _DIGITS) for number in (link.value, link.empirical))
            factors, rest = (link.beta, link.weight), (link.range, link.lambda_, link.kappa)
            cells = [*(f"{each:g}" for each in factors), *bounds, *(f"{each:.4g}" for each in rest)]
            table.add_row(name_models(row, link), *cells)
        tables.append(table)
    return Group(*tables)


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


def _ledger_tables(ledger: Ledger) -> Group:
    """What each row pays: rows without links as one table, and those with links one by one."""
    linked = [row for row in ledger.rows if row.bound.uses_chain]
    plain = [row for row in ledger.rows if not row.bound.uses_chain]
    tables: list[RenderableType] = [_plain_ledger(plain)] if plain else []
    return Group(*tables, *map(_link_ledger, linked))


def _plain_ledger(rows: Sequence[LedgerRow]) -> Table:
    """A column for every entry that any row has; how delta is split is shown only if part of it pays for sampling."""
    entries = [{entry.name: entry for entry in row.entries} for row in rows]
    sampled = any(each["delta_sampling"].amount != "0" for each in entries)
    units = {name: entry.unit for each in entries for name, entry in each.items()}
    shown = [name for name in units if sampled or name not in _SAMPLING_ENTRIES]
    headings = [
        f"{_HEADINGS.get(name, name)}\n{units[name] if units[name] in ('bits', 'nats') else ''}" for name in shown
    ]
    table = _columns(["row"], headings)
    for row, each in zip(rows, entries, strict=True):
        amounts = (_amount(each[name]) if name in each else "" for name in shown)
        table.add_row(f"{row.metric} {row.bound}", *amounts)
    return table


def _link_ledger(row: LedgerRow) -> Table:
    """What a row with links pays: entry by entry."""
    table = _columns([f"{row.metric} {row.bound}"], ["", ""])
    for entry in row.entries:
        unit = entry.unit if entry.unit != "probability" else ""
        table.add_row(entry.title, _amount(entry), unit)
    return table


def _amount(entry: LedgerEntry) -> str:
    return f"{entry.amount:,.4g}" if isinstance(entry.amount, float) else f"{entry.amount}"


def _columns(left: list[str], right: list[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _hash_table(certificate: Certificate) -> Table:
    table = _grid()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    files = [(record.sha256, record.file) for _, record in certificate.files()]
    bases = [(base.sha256, f"{base.place}: card and values") for base in certificate.models]
    own = (certificate.certificate_sha256, "this certificate without its own hash")
    for sha256, what in (*files, *bases, own):
        table.add_row(Text(sha256[:_HASH_CHARACTERS], style="dim"), what)
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


def show_studies(console: Console, studies: Mapping[str, Study]) -> None:
    """Print what each study shows, needs and costs, by the path of its file."""
    for path, study in studies.items():
        table = _grid()
        if study.about is not None:
            for key in ("shows", "needs", "costs"):
                table.add_row(Text(key, style="dim"), Text(getattr(study.about, key)))
        counts = Counter(row.prior for row in study.certificates.values())
        stated = ", ".join(f"{number} with prior {prior}" for prior, number in counts.items())
        table.add_row(Text("certificates", style="dim"), Text(stated))
        _section(console, path, table)


def _one_line(row: Any) -> str:
    """The scalar settings of a configuration row, and the kinds of its parts."""
    parts = []
    for key, value in vars(row).items():
        kind = getattr(value, "kind", None)
        if kind is not None or isinstance(value, str | int | float):
            parts.append(f"{key}={kind if kind is not None else value}")
    return ", ".join(parts)


def show_forecast(console: Console, forecast: Any, message_bits: int, tokens: int, width: float) -> None:
    """Print the bounds to expect, the samples to draw, and the sizes from which bounds are vacuous."""
    from tokenbounds.certificates.forecast import BOUNDS

    sizes = [size for size in (100, 1000, 10_000, 100_000) if size * forecast.block_tokens < tokens]
    table = _columns(["bound"], ["scored tokens", "expected", "measured", "gap", "α", ""])
    for bound in BOUNDS:
        for draws in (*sizes, None):
            row = forecast.expect(bound, message_bits, tokens, draws)
            scored = "all" if draws is None else f"{draws * forecast.block_tokens:,}"
            numbers = (round_up(each, 3) for each in (row.value, row.empirical, row.value - row.empirical))
            vacuous = Text("vacuous" if row.value >= forecast.random_guess else "", style="yellow")
            table.add_row(bound, scored, *numbers, f"{row.alpha:g}", vacuous)
    console.print(f"{message_bits:,} bits, {tokens:,} tokens: L/m about {message_bits * math.log(2) / tokens:.3g} nats")
    _section(console, f"Bits per token to expect (random guess {forecast.random_guess:.3f})", table)
    needs = _columns(["bound"], [f"tokens to score for {width:g} bits", "most bits", "fewest tokens"])
    for bound in BOUNDS:
        draws = forecast.draws_needed(bound, message_bits, tokens, width)
        needed = min(tokens, draws * forecast.block_tokens)
        limits = (forecast.most_bits(bound, tokens), forecast.fewest_tokens(bound, message_bits))
        needs.add_row(bound, f"{needed:,}", *("none" if limit is None else f"{limit:,}" for limit in limits))
    _section(console, "What it takes (last two: not to be vacuous with every token scored)", needs)
