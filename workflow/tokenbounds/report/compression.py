"""The table of compression: what each method trains, what its message costs, and what that buys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup, escape

from tokenbounds.bounds.kinds import BPD, Metric
from tokenbounds.certificates.schema import Certificate
from tokenbounds.errors import TokenboundsError
from tokenbounds.files import read_json, write_bytes
from tokenbounds.messages.container import Header
from tokenbounds.report.formats import (
    PRETRAINED_QUANTIZERS,
    format_bytes,
    format_value,
    quantizer_name,
)
from tokenbounds.report.page import Section
from tokenbounds.report.records import comparable, metrics_of, read_certificates
from tokenbounds.report.spreadsheet import write_tables

SCHEMA_VERSION = 1

_NAMES = {"dense": "dense", "lora": "LoRA", "tiny": "tiny LoRA", "kronecker": "Kronecker", "monarch": "Monarch"}
_COMBINED = {
    "dense": "subspace",
    "lora": "SubLoRA",
    "kronecker": "Kronecker + subspace",
    "monarch": "Monarch + subspace",
}
_COMPRESSORS = ("gzip", "xz", "zstd")

COLUMNS: dict[str, pl.DataType] = {
    "corpus": pl.String(),
    "method": pl.String(),
    "certificate": pl.String(),
    "message": pl.String(),
    "model": pl.String(),
    "trained_parameters": pl.Int64(),
    "message_bits": pl.Int64(),
    "symbol_bits": pl.Int64(),
    **{f"{name}_bits": pl.Int64() for name in _COMPRESSORS},
    "bpd": pl.Float64(),
    "bpd_bound": pl.String(),
    "bpd_empirical": pl.Float64(),
    "random_guess": pl.Float64(),
    "compared": pl.Boolean(),
}


def tabulate_compression(certificate_paths: Iterable[Path | str], directory: Path | str) -> pl.DataFrame:
    """Write compression.parquet, .csv and .md into `directory`: one row per certificate of a transformer.

    Columns: `method` (parameterization, then quantizer), `trained_parameters` (values in the message), sizes in bits
    (`symbol_bits` is our coder's share; `gzip_bits` … are what others need for the same symbols, null if not
    measured), whether the certificate is one of those that the best is chosen from (`compared`: `records.comparable`),
    and for each metric the certificate's best bound over tokens: `bpd` in bits per token, `top1_error` …

    Raises
    ------
    TokenboundsError
        If a certificate, or the encoder's report next to its message, cannot be read. Without a report, its columns are
        null.
    """
    directory = Path(directory)
    table = compression_table(read_certificates(certificate_paths))
    write_tables({"compression": table}, directory, SCHEMA_VERSION)
    write_bytes(directory / "compression.md", render_markdown(table).encode())
    return table


def compression_table(certificates: Sequence[Certificate]) -> pl.DataFrame:
    """The rows of `tabulate_compression`, by corpus, method and size; Markov chains train nothing and are left out."""
    errors = [metric for metric in metrics_of(certificates) if metric.is_error]
    trained = [one for one in certificates if one.message.header["model"]["family"] not in ("markov", "online")]
    corpora = dict.fromkeys(one.corpus for one in trained)
    compared = [
        one.name for corpus in corpora for one in comparable([each for each in trained if each.corpus == corpus])
    ]
    rows = [{**_record(one, errors), "compared": one.name in compared} for one in trained]
    table = pl.DataFrame(rows, schema={**COLUMNS, **dict.fromkeys(map(str, errors), pl.Float64())})
    return table.sort("corpus", "method", "message_bits", "certificate")


def method_of(header: Header, quantizer: dict[str, Any] | None = None) -> str:
    """A method's name: parameterization and quantizer.

    Parameters
    ----------
    header : dict
        Of the message.
    quantizer : dict, optional
        The row that the message was encoded by, from the encoder's report. A header says less: there integers with
        steps are one kind, however they were rounded.
    """
    quantizer = quantizer or header.get("quantizer") or {"kind": "unknown quantizer"}
    parameterization = header["model"].get("parameterization", {})
    kind = parameterization.get("kind", "dense")
    if kind == "dense" and quantizer["kind"] in PRETRAINED_QUANTIZERS:
        return quantizer_name(quantizer)
    if kind == "subspace":
        name = _COMBINED.get(parameterization.get("over", {}).get("kind", "dense"), "subspace")
    else:
        name = _NAMES.get(kind, kind)
    return f"{name}, {quantizer_name(quantizer)}"


def _record(certificate: Certificate, errors: Sequence[Metric]) -> dict[str, Any]:
    message = certificate.message
    path = certificate.locate(message).with_suffix(".json")
    report = read_json(path) if path.is_file() else {}
    if report and report.get("sha256") != message.sha256:
        raise TokenboundsError(f"{path} is not the report on the message of {certificate.path}. Encode it again.")
    quantizer = report.get("message", {}).get("quantizer")
    others = report.get("symbols_compressed_bits", {})
    row = certificate.row(BPD)
    return {
        "corpus": certificate.corpus,
        "method": method_of(message.header, quantizer),
        "certificate": certificate.name,
        "message": message.name,
        "model": certificate.model,
        "trained_parameters": report.get("coded_parameters"),
        "message_bits": message.whole_bits,
        "symbol_bits": message.breakdown.get("symbols", 0),
        **{f"{name}_bits": others.get(name) for name in _COMPRESSORS},
        "bpd": row.value if row else None,
        "bpd_bound": row.bound.value if row else None,
        "bpd_empirical": row.empirical if row else None,
        "random_guess": row.random_guess if row else None,
        **{str(metric): best.value if (best := certificate.row(metric)) else None for metric in errors},
    }


def method_table(certificates: Sequence[Certificate]) -> pl.DataFrame:
    """What the figure of bounds by method draws.

    Columns corpus, method, certificate, message_bits, trained_parameters, bpd, bpd_empirical, random_guess.
    """
    table = compression_table(certificates).filter(pl.col("bpd").is_not_null())
    sizes, values = ("message_bits", "trained_parameters"), ("bpd", "bpd_empirical", "random_guess")
    return table.select("corpus", "method", "certificate", *sizes, *values)


# --- for people -------------------------------------------------------------------------------------------------------


def render_markdown(table: pl.DataFrame) -> str:
    """The table in Markdown: one section per corpus, the best of comparable certificates in bold."""
    parts = ["# Compression\n"]
    for corpus in table["corpus"].unique(maintain_order=True):
        header, lines = _cells(table.filter(pl.col("corpus") == corpus), "**{}**")
        parts += [f"## {corpus}\n", _line(header), _line([":--"] * 2 + ["--:"] * (len(header) - 2))]
        parts += [*map(_line, lines), ""]
    parts.append(
        "Bounds are the certificate's best over tokens, rounded up. **Bold**: the best of those certificates that pay "
        "for their messages, share plan and settings, and so hold together. Bits per parameter: the whole message. The "
        "last columns: bytes that our coder and general compressors need for the same symbols."
    )
    return "\n".join(parts) + "\n"


def render_html(table: pl.DataFrame) -> Markup:
    """The table as HTML for the report's page."""
    parts = []
    for corpus in table["corpus"].unique(maintain_order=True):
        header, lines = _cells(table.filter(pl.col("corpus") == corpus), "{}")
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
        table_html = f"<caption>{escape(corpus)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        parts.append(f'<div class="wide"><table>{table_html}</table></div>')
    return Markup("".join(parts))


def compression_section(certificate_paths: Iterable[Path | str]) -> list[Section]:
    """The report's section on compression; none without a transformer.

    Raises
    ------
    TokenboundsError
        As `tabulate_compression`.
    """
    table = compression_table(read_certificates(certificate_paths))
    return [Section("compression", "Compression", render_html(table))] if table.height else []


def _cells(rows: pl.DataFrame, best_format: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of one corpus's table, best bounds written by `best_format`."""
    metrics = [BPD, *map(Metric, rows.columns[len(COLUMNS) :])]
    best = {metric: rows.filter("compared")[metric].min() for metric in metrics}
    header = ["method", "message", "trained parameters", "size", "bits per parameter"]
    header += [*(metric.label for metric in metrics), "measured BPD", "symbols", *_COMPRESSORS]
    lines = []
    for row in rows.iter_rows(named=True):
        bits, parameters = row["message_bits"], row["trained_parameters"]
        line = [row["method"], row["message"], "–" if parameters is None else f"{parameters:,}", format_bytes(bits)]
        line.append(f"{bits / parameters:.2f}" if parameters else "–")
        for metric in metrics:
            text = "–" if row[metric] is None else format_value(metric, row[metric])
            is_best = row["compared"] and row[metric] is not None and row[metric] == best[metric]
            line.append(best_format.format(text) if is_best else text)
        line.append("–" if row["bpd_empirical"] is None else format_value(BPD, row["bpd_empirical"]))
        sizes = [row[f"{name}_bits"] for name in ("symbol", *_COMPRESSORS)]
        line += ["–" if size is None else format_bytes(size) for size in sizes]
        lines.append(line)
    return header, lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
