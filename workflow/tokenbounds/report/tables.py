"""The table of certificates: one row per certificate, metric and bound, as Parquet, CSV and Markdown."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from tokenbounds.bounds.kinds import BPD, Metric
from tokenbounds.certificates.faithfulness import MEASURES
from tokenbounds.certificates.schema import Certificate, Row
from tokenbounds.certificates.sentence import state_faithfulness_in_words
from tokenbounds.files import atomic_path, relative_path, write_bytes
from tokenbounds.report.formats import (
    format_bytes,
    format_confidence,
    format_percent,
    format_value,
)
from tokenbounds.report.records import best_rows, metrics_of, read_certificates
from tokenbounds.report.spreadsheet import to_csv
from tokenbounds.rounding import percent_up, round_up
from tokenbounds.terminal import SafeConsole

SCHEMA_VERSION = 1

SCHEMA = pa.schema(
    [
        pa.field("study", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("bound", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("empirical", pa.float64(), nullable=False),
        pa.field("gap", pa.float64(), nullable=False),
        pa.field("random_guess", pa.float64(), nullable=False),
        pa.field("vacuous", pa.bool_(), nullable=False),
        pa.field("message_bits", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("vocabulary_size", pa.int64(), nullable=False),
        pa.field("delta", pa.float64(), nullable=False),
        pa.field("certificate", pa.string(), nullable=False),
        pa.field("complexity_nats", pa.float64(), nullable=False),
        pa.field("range", pa.float64(), nullable=False),
        pa.field("alpha", pa.float64()),
        pa.field("lambda", pa.float64()),
        pa.field("sampling", pa.float64(), nullable=False),
        pa.field("row_delta", pa.float64(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("scored_tokens", pa.int64(), nullable=False),
        pa.field("message_file", pa.string(), nullable=False),
        pa.field("message_sha256", pa.string(), nullable=False),
        pa.field("certificate_file", pa.string(), nullable=False),
        pa.field("paid_bits", pa.int64(), nullable=False),
        pa.field("prior", pa.string(), nullable=False),
        pa.field("kl_bits", pa.float64()),
        pa.field("first_choice_changed", pa.float64()),
    ],
    metadata={b"schema_version": str(SCHEMA_VERSION).encode()},
)


def tabulate(certificate_paths: Iterable[Path | str], directory: Path | str) -> pa.Table:
    """Write certificates.parquet, .csv and .md into `directory`.

    Rows are sorted by corpus, metric, value and certificate. Units: `value`, `empirical`, `gap`, `random_guess`,
    `range` and `sampling` are bits per token for the metric `bpd` and probabilities for top-k errors; `delta` is the
    failure probability of the whole certificate, `row_delta` that of the row; files are relative to `directory`.
    `paid_bits` are the bits of all messages that the row pays for: none if held out, several if it uses a chain.
    `kl_bits` and `first_choice_changed` say how far the certificate's model strays from the original, where it does.

    Raises
    ------
    CertificateError
        If a certificate cannot be read; see `read_certificates`.
    """
    directory = Path(directory)
    certificates = read_certificates(certificate_paths)
    table = certificate_table(certificates, directory)
    with atomic_path(directory / "certificates.parquet") as temporary:
        pq.write_table(table, temporary)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    write_bytes(directory / "certificates.csv", to_csv(frame))
    write_bytes(directory / "certificates.md", render_markdown(certificates).encode())
    return table


def certificate_table(certificates: Sequence[Certificate], directory: Path) -> pa.Table:
    """The rows of `SCHEMA`; paths are given relative to `directory`."""
    pairs = [(one, row) for one in certificates for row in one.rows]
    pairs.sort(key=lambda pair: (pair[0].corpus, pair[1].metric.order, pair[1].value, pair[0].name))
    return pa.Table.from_pylist([_record(one, row, directory) for one, row in pairs], schema=SCHEMA)


def _record(certificate: Certificate, row: Row, directory: Path) -> dict[str, object]:
    assert certificate.path is not None
    return {
        "study": certificate.study,
        "corpus": certificate.corpus,
        "model": certificate.model,
        "message": certificate.message.name,
        "metric": str(row.metric),
        "bound": row.bound.value,
        "value": row.value,
        "empirical": row.empirical,
        "gap": row.gap,
        "random_guess": row.random_guess,
        "vacuous": row.vacuous,
        "message_bits": certificate.message.whole_bits,
        "tokens": certificate.tokens,
        "vocabulary_size": certificate.vocabulary_size,
        "delta": certificate.delta,
        "certificate": certificate.name,
        "complexity_nats": row.complexity,
        "range": row.range,
        "alpha": row.alpha,
        "lambda": row.lambda_,
        "sampling": row.sampling,
        "row_delta": row.delta,
        "mode": certificate.plan.mode,
        "scored_tokens": certificate.scored_tokens,
        "message_file": relative_path(certificate.locate(certificate.message), directory),
        "message_sha256": certificate.message.sha256,
        "certificate_file": relative_path(certificate.path, directory),
        "paid_bits": certificate.paid_bits(row),
        "prior": certificate.prior.kind,
        **_faithfulness(certificate),
    }


def _faithfulness(certificate: Certificate) -> dict[str, float | None]:
    """How far the model strays from the original, over the corpus's tokens; None where that is not stated."""
    rows = {metric: certificate.faithfulness and certificate.faithfulness.row(metric) for metric in MEASURES}
    return {metric: row.value if row else None for metric, row in rows.items()}


# --- Markdown ---------------------------------------------------------------------------------------------------------


def render_markdown(certificates: Sequence[Certificate]) -> str:
    """The table for people: one section per corpus, one row per metric, bound and certificate, best values in bold."""
    parts = ["# Certificates\n"]
    for corpus in dict.fromkeys(certificate.corpus for certificate in certificates):
        parts.append(_markdown_corpus(corpus, [one for one in certificates if one.corpus == corpus]))
    parts.append(
        "Each value is an upper bound (rounded up) that holds with the stated confidence, for all rows of one "
        "certificate together. **Bold**: the best of its metric among the certificates that pay for their messages and "
        "share corpus, plan and settings (the largest such group), which hold together with that confidence, too; rows "
        "that assume something about documents aside. *Vacuous*: no better than random guessing. BPD: bits per token."
    )
    return "\n".join(parts) + "\n"


def _markdown_corpus(corpus: str, certificates: Sequence[Certificate]) -> str:
    header = ("metric", "bound", "certified", "empirical", "of guessing", "message", "model", "size", "confidence")
    lines = [f"## {_cell(corpus)}\n", f"| {' | '.join(header)} | certificate | prior |"]
    lines.append("|:--|:--|--:|--:|--:|:--|:--|--:|--:|:--|:--|")
    pairs = [(certificate, row) for certificate in certificates for row in certificate.rows]
    best = best_rows(certificates)
    for metric in metrics_of(certificates):
        chosen = sorted((pair for pair in pairs if pair[1].metric == metric), key=lambda pair: pair[1].value)
        marked = best.get(metric, (None, None))[1]
        lines += [_markdown_row(certificate, row, row is marked) for certificate, row in chosen]
        for guess in sorted({row.random_guess for _, row in chosen}):
            value = format_value(metric, guess)
            lines.append(f"| {metric.label} | – | {value} | | 100 % | random guess | | | | | |")
    lines += [f"\n{_cell(sentence)}" for one in certificates if (sentence := state_faithfulness_in_words(one))]
    return "\n".join(lines) + "\n"


def _markdown_row(certificate: Certificate, row: Row, best: bool) -> str:
    value = format_value(row.metric, row.value)
    value = f"**{value}**" if best and not row.vacuous else value
    cells = [
        row.metric.label,
        row.bound,
        f"{value} *vacuous*" if row.vacuous else value,
        format_value(row.metric, row.empirical),
        format_percent(row.share_of_guess),
        certificate.message.name,
        certificate.model,
        format_bytes(certificate.message.whole_bits),
        format_confidence(certificate.delta),
        certificate.name,
        certificate.prior.kind.replace("_", " "),
    ]
    return "| " + " | ".join(_cell(cell) if cell != cells[2] else cell for cell in cells) + " |"


def _cell(text: str) -> str:
    """Text that cannot break out of a Markdown table cell or become markup."""
    flat = " ".join(text.split())
    for character in "\\|*_`<>[]":
        flat = flat.replace(character, f"\\{character}")
    return flat


# --- the terminal -----------------------------------------------------------------------------------------------------


def print_table(
    certificate_paths: Iterable[Path | str], report: Path | str | None = None, *, console: Console | None = None
) -> None:
    """Print one row per certificate to stdout, and where the report is: colours on a terminal, plain text elsewhere.

    A narrow terminal shows the top-k errors that fit, smallest k first.
    """
    certificates = read_certificates(certificate_paths)
    if console is None:
        console = SafeConsole() if sys.stdout.isatty() else SafeConsole(width=160, no_color=True, force_terminal=False)
    for corpus in dict.fromkeys(certificate.corpus for certificate in certificates):
        shown = [one for one in certificates if one.corpus == corpus]
        errors = [metric for metric in metrics_of(shown) if metric.is_error]
        table = _terminal_table(shown, errors)
        while errors and Measurement.get(console, console.options.update_width(10_000), table).maximum > console.width:
            table = _terminal_table(shown, errors := errors[:-1])
        console.print(table)
    if report is not None:
        console.print(Text(f"Report: {report}"))


def _terminal_table(certificates: Sequence[Certificate], errors: Sequence[Metric]) -> RichTable:
    first, compared = certificates[0], any(one.faithfulness for one in certificates)
    table = RichTable(
        title=Text(f"{first.study} · {first.corpus}: upper bounds, {first.tokens:,} {first.manifest.token}s"),
        title_justify="left",
        caption=Text(
            "Upper bounds, rounded up. Percentages of BPD are shares of random guessing. ! vacuous, "
            "* best of those that share plan and settings."
            + (" KL: divergence from the original, bits; changed: first choices." if compared else "")
        ),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    kinds = list(dict.fromkeys(kind for one in certificates for kind in one.kinds))
    table.add_column(Text("certificate"), overflow="fold")
    table.add_column(Text("message"), justify="right", no_wrap=True)
    columns = [f"BPD {kind}" for kind in kinds] + ["empirical", "of guess"] + [metric.label for metric in errors]
    columns += ["KL", "changed"] if compared else []
    for name in columns:
        table.add_column(Text(re.sub("[ _]", "\n", name)), justify="right", no_wrap=True)
    best = [row for _, row in best_rows(certificates).values()]
    for one in certificates:
        cells = [Text(one.name + one.prior.remark), Text(format_bytes(one.message.whole_bits))]
        cells += [_terminal_value(one.row(BPD, kind), best) for kind in kinds]
        row = one.row(BPD)
        cells.append(Text(format_value(BPD, row.empirical) if row else "–"))
        cells.append(Text(format_percent(row.share_of_guess) if row else "–"))
        cells += [_terminal_value(one.row(metric), best) for metric in errors]
        table.add_row(*cells, *(_terminal_faithfulness(one) if compared else ()))
    return table


def _terminal_faithfulness(certificate: Certificate) -> list[Text]:
    """How far the model strays from the original, over the corpus's tokens: bits, and a share of first choices."""
    kl_bits, changed = _faithfulness(certificate).values()
    return [
        Text("–" if kl_bits is None else round_up(kl_bits, 4)),
        Text("–" if changed is None else f"{percent_up(changed, 2)} %"),
    ]


def _terminal_value(row: Row | None, best: Sequence[Row]) -> Text:
    if row is None:
        return Text("–")
    text = format_value(row.metric, row.value)
    if row.vacuous:
        return Text(f"{text} !", style="red")
    return Text(f"{text} *", style="bold green") if any(row is one for one in best) else Text(f"{text}  ")
