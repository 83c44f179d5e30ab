"""Bounds against how many tokens a model sees: networks beside Markov chains, as a table, a figure and a section."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
from markupsafe import Markup, escape

from tokenbounds.bounds.kinds import Metric
from tokenbounds.certificates.schema import Certificate
from tokenbounds.report import hover, panels, style
from tokenbounds.report.drawing import Axes, Figure, FuncFormatter, Line2D, MaxNLocator
from tokenbounds.report.formats import format_bytes, format_value
from tokenbounds.report.page import Section
from tokenbounds.report.records import metrics_of, read_certificates

CHAINS = "Markov chains"
TRAINED_WITH_AS_MANY = "networks, trained with as many"
TRAINED_WITH_MORE = "networks, trained with more"
SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("corpus", "series"), pl.String()),
    "seen_tokens": pl.Int64(),
    **dict.fromkeys(("certificate", "message"), pl.String()),
    "message_bits": pl.Int64(),
    **dict.fromkeys(("metric", "bound"), pl.String()),
    **dict.fromkeys(("value", "empirical", "random_guess"), pl.Float64()),
    "vacuous": pl.Boolean(),
}
_MEASURED = (0, (3, 2))
_MOST_COLUMNS = 4


def context_table(certificates: Sequence[Certificate]) -> pl.DataFrame:
    """The best bound over tokens of each certificate and metric, by the tokens that its model sees (`SCHEMA`).

    A network sees as many tokens as its plan shows before each one (`visible_tokens`; without it the network is left
    out), a chain as many as its order. Corpora on which networks do not see different numbers of tokens are left out,
    and so are certificates that pay for no message or state no bound over tokens.
    """
    placed = [(one, *place) for one in certificates if (place := _seen(one)) is not None]
    compared = {
        corpus
        for corpus in {one.corpus for one, *_ in placed}
        if len({seen for one, series, seen in placed if one.corpus == corpus and series != CHAINS}) > 1
    }
    rows = []
    for one, series, seen in placed:
        for metric in one.metrics:
            row = one.row(metric)
            if one.corpus not in compared or row is None or not row.bound.by_token:
                continue
            rows.append(
                {
                    **{"corpus": one.corpus, "series": series, "seen_tokens": seen},
                    **{"certificate": one.name, "message": one.message.name, "message_bits": one.message.whole_bits},
                    **{"metric": str(metric), "bound": row.bound.value},
                    **{"value": row.value, "empirical": row.empirical},
                    **{"random_guess": row.random_guess, "vacuous": row.vacuous},
                }
            )
    return pl.DataFrame(rows, schema=SCHEMA).sort("corpus", "series", "seen_tokens", "certificate")


def _seen(certificate: Certificate) -> tuple[str, int] | None:
    """Series of a certificate, and how many tokens its model sees; None if it belongs to none.

    `config.graph` decides by the same rule, from the rows of a study, whether there is a figure.
    """
    model, visible = certificate.message.header["model"], certificate.plan.visible_tokens
    stated = any(row.bound.by_token for row in certificate.rows)
    if certificate.prior.kind != "message" or model["family"] == "online" or not stated:
        return None
    if model["family"] == "markov":
        return CHAINS, model["order"]
    if visible is None:
        return None
    return (TRAINED_WITH_AS_MANY if model.get("context") == visible else TRAINED_WITH_MORE), visible


def draw_bound_by_context(table: pl.DataFrame) -> Figure:
    """Certified and measured values against the tokens that are seen: a panel per metric, rows of panels per corpus."""
    corpora = table["corpus"].unique(maintain_order=True).to_list()
    metrics = sorted({Metric(name) for name in table["metric"]}, key=lambda metric: metric.order)
    columns = min(len(metrics), _MOST_COLUMNS)
    lines = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(panels.WIDTH_INCHES, 3.1 * lines * len(corpora) + 0.5), layout="constrained")
    grid = figure.subplots(lines * len(corpora), columns, squeeze=False)
    colours = style.colours(table["series"].to_list())
    for number, corpus in enumerate(corpora):
        each = list(grid[lines * number : lines * (number + 1)].flat)
        for axes, metric in zip(each, metrics, strict=False):
            here = table.filter((pl.col("corpus") == corpus) & (pl.col("metric") == str(metric)))
            _draw_panel(axes, here, metric, colours)
        for axes in each[len(metrics) :]:
            axes.set_visible(False)
        if len(corpora) > 1:
            each[0].set_title(corpus, loc="left")
    keys = [Line2D([], [], color=colour, marker="o", markersize=5, label=name) for name, colour in colours.items()]
    keys.append(Line2D([], [], color=style.MUTED, linestyle=_MEASURED, linewidth=0.9, label="measured"))
    figure.legend(handles=keys, loc="outside upper left", ncols=4, frameon=False, fontsize=8.5, labelcolor=style.INK)
    return figure


def _draw_panel(axes: Axes, rows: pl.DataFrame, metric: Metric, colours: dict[str, str]) -> None:
    """One metric of one corpus; numbers of tokens stand side by side, however far apart they are."""
    scale = 100.0 if metric.is_error else 1.0
    ticks = rows["seen_tokens"].unique().sort().to_list()
    for series, colour in colours.items():
        best = rows.filter(pl.col("series") == series).sort("value").unique("seen_tokens", keep="first")
        line = best.sort("seen_tokens")
        x = [ticks.index(seen) for seen in line["seen_tokens"]]
        axes.plot(x, scale * line["value"], color=colour, marker="o", markersize=5, linewidth=1.5)
        axes.plot(x, scale * line["empirical"], color=colour, linestyle=_MEASURED, linewidth=0.9)
        points = [
            (place, scale * value, f"{name}, {format_bytes(bits)}: at most {format_value(metric, value)}")
            for place, (value, name, bits) in zip(
                x, line.select("value", "message", "message_bits").iter_rows(), strict=True
            )
        ]
        hover.mark_points(axes, points, colour)
    if not rows.height:
        return
    guess = scale * panels.extent(rows["random_guess"])[1]
    if metric.is_error:
        axes.set_ylim(0.0, min(100.0, 108.0 * panels.extent(rows["value"])[1]))
    elif panels.extent(rows["value"])[1] > 0.8 * guess:
        panels.horizontal_line(axes, guess, f"random guessing: {guess:.3g}", "left")
    axes.set_xticks(range(len(ticks)), [f"{tick:,}" for tick in ticks])
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("tokens seen")
    axes.set_ylabel(f"{metric.label}, %" if metric.is_error else "bits per token")


def context_section(certificate_paths: Iterable[Path | str]) -> list[Section]:
    """The report's section on what context buys; none if no networks see different numbers of tokens.

    Raises
    ------
    TokenboundsError
        If a certificate cannot be read.
    """
    certificates = read_certificates(certificate_paths)
    table, metrics = context_table(certificates), metrics_of(certificates)
    if not table.height:
        return []
    head = ["tokens seen", "certificate", "series", "size", *(f"{one.label}, measured" for one in metrics)]
    head += [f"{one.label}, certified" for one in metrics]
    parts = [
        "<p>Networks and Markov chains that see the same number of tokens before each one that they predict. "
        "Bounds are each certificate’s best over tokens, rounded up.</p>"
    ]
    for (corpus,), rows in table.group_by("corpus", maintain_order=True):
        lines = [
            _line(part, metrics)
            for _, part in rows.sort("seen_tokens", "series", "certificate").group_by(
                "certificate", maintain_order=True
            )
        ]
        cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
        parts.append(
            f'<div class="wide"><table><caption>{escape(corpus)}</caption><thead><tr>{cells}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )
    return [Section("context", "Bounds against context", Markup("".join(parts)))]


def _line(rows: pl.DataFrame, metrics: Sequence[Metric]) -> str:
    """The table's line of one certificate, from its rows by metric."""
    by_metric = {row["metric"]: row for row in rows.iter_rows(named=True)}
    first = next(iter(by_metric.values()))
    cells = [
        f"<td>{first['seen_tokens']:,}</td><td>{escape(first['certificate'])}</td>",
        f"<td>{escape(first['series'])}</td><td>{format_bytes(first['message_bits'])}</td>",
    ]
    for key in ("empirical", "value"):
        for metric in metrics:
            row = by_metric.get(str(metric))
            text = format_value(metric, row[key]) if row else "–"
            is_vacuous = row is not None and key == "value" and row["vacuous"]
            cells.append(f'<td><span class="vacuous">{text}</span></td>' if is_vacuous else f"<td>{text}</td>")
    return f"<tr>{''.join(cells)}</tr>"
