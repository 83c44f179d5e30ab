"""The antibody part of a study: tables and figures in results/antibody, and a section of the report page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl
from markupsafe import Markup

from tokenbounds.bounds.kinds import BPD, Metric
from tokenbounds.config import TaskSpec
from tokenbounds.errors import TokenboundsError
from tokenbounds.report import style, templates
from tokenbounds.report.antibodies import figures, tables
from tokenbounds.report.antibodies.tables import MessageReport, TaskResult
from tokenbounds.report.formats import format_bytes, format_percent, format_value
from tokenbounds.report.inline_svg import inline_svg
from tokenbounds.report.page import Section
from tokenbounds.report.records import read_certificates
from tokenbounds.report.spreadsheet import write_tables

SCHEMA_VERSION = 1
NAMES = ("models", "regions", "positions", "recovery", "affinity", "quantization")
_METRICS = (BPD, Metric.top(1))


def write_antibody_results(
    certificate_paths: Iterable[Path | str],
    report_paths: Iterable[Path | str],
    tasks: Mapping[str, tuple[TaskSpec, Sequence[Path]]],
    directory: Path | str,
) -> list[Path]:
    """Write every table as Parquet and CSV, and every figure that has data, into `directory`.

    Parameters
    ----------
    certificate_paths
        All certificates of the study.
    report_paths
        The reports of all messages (`messages/*.json`).
    tasks
        Each task by name, with the answers of its messages' models (`<message>.parquet`).
    directory
        Usually results/antibody.

    Returns
    -------
    list of Path
        The tables' Parquet files. A table without rows is written too.

    Raises
    ------
    TokenboundsError
        If a file cannot be read.
    """
    directory = Path(directory)
    certificates = read_certificates(certificate_paths)
    reports = {report.message: report for report in map(MessageReport.read, map(Path, report_paths))}
    results = [_read_result(name, task, path, reports) for name, (task, paths) in tasks.items() for path in paths]
    subsets = tables.subset_table(certificates, reports)
    is_position = pl.col("column") == tables.POSITION_COLUMN
    contents = {
        "models": tables.model_table(certificates, reports),
        "regions": subsets.filter(~is_position),
        "positions": subsets.filter(is_position),
        "recovery": tables.recovery_table(results),
        "affinity": tables.affinity_table(results),
        "quantization": tables.quantization_table(certificates, reports, results),
    }
    paths = write_tables(contents, directory, SCHEMA_VERSION)
    _draw(subsets, contents["quantization"], directory)
    return paths


def _read_result(name: str, task: TaskSpec, path: Path, reports: Mapping[str, MessageReport]) -> TaskResult:
    if path.stem not in reports:
        raise TokenboundsError(f"{path} is of a message without a report. Encode {path.stem} again.")
    try:
        return TaskResult(name, task, reports[path.stem], pl.read_parquet(path))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TokenboundsError(f"{path} cannot be read ({error}). Run task {name} again.") from error


def _draw(subsets: pl.DataFrame, quantization: pl.DataFrame, directory: Path) -> None:
    wanted = [
        (name, chosen, draw)
        for name, column, draw in figures.SUBSET_FIGURES
        if (chosen := figures.choose_subsets(subsets, column)).height
    ]
    measures = figures.choose_measures(quantization)
    if measures.height:
        wanted.append(("quantization", measures, figures.draw_quantization))
    style.draw_again(wanted, directory)


# --- the section of the page ------------------------------------------------------------------------------------------

_CAPTIONS = {
    "regions": "Loss by region. The tick is the loss measured over the region’s residues, the dot the certified bound; "
    "a triangle is a bound beyond random guessing (dashed). Each bound is given the labels: docs/bounds.md.",
    "positions": "Loss by IMGT position: measured (dashed), certified (solid). CDRs are shaded. A position is a small "
    "part of the tokens, so that only held-out models have bounds that say much here.",
    "quantization": "What coarser weights cost each task, next to the certified bound: one point per message.",
}


def antibody_section(directory: Path | str) -> list[Section]:
    """The section of the page that shows the tables and figures of `directory`; none if there is nothing to show.

    Raises
    ------
    TokenboundsError
        If a table or a figure cannot be read.
    """
    directory = Path(directory)
    try:
        frames = {name: pl.read_parquet(directory / f"{name}.parquet") for name in NAMES}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TokenboundsError(f"the tables in {directory} cannot be read ({error}). Make them again.") from error
    if all(frames[name].is_empty() for name in ("regions", "recovery", "affinity")):
        return []
    # The metrics' columns are between those of every table and those of bits per token's other values.
    columns = frames["models"].columns
    metrics = [Metric(name) for name in columns[columns.index("tokens") + 1 : columns.index("bpd_measured")]]
    body = templates.render(
        "tokenbounds.report.antibodies",
        "section.html.jinja",
        {"shown": format_value, "bpd": BPD, "size": format_bytes, "percent": format_percent},
        metrics=metrics,
        models=frames["models"].to_dicts(),
        regions=_by_region(frames["regions"]),
        germline=_by_germline(frames["regions"]),
        region_names=tables.REGIONS,
        recovery=frames["recovery"].to_dicts(),
        affinity=frames["affinity"].to_dicts(),
        figures=[
            {"svg": inline_svg(path, name), "caption": _CAPTIONS[name]}
            for name in _CAPTIONS
            if (path := directory / f"figure_{name}.svg").is_file()
        ],
    )
    return [Section("antibodies", "Antibodies: regions and tasks", Markup(body))]


def _by_region(frame: pl.DataFrame) -> list[dict[str, object]]:
    """One line per certificate and metric: the best bound and the measured value of every region."""
    lines = []
    rows = frame.filter((pl.col("column") == "region") & pl.col("metric").is_in(_METRICS)).sort("value")
    for key in rows.select("corpus", "certificate", "metric").unique().sort("corpus", "metric", "certificate").rows():
        corpus, certificate, metric = key
        part = rows.filter((pl.col("certificate") == certificate) & (pl.col("metric") == metric))
        cells = {row["label"]: row for row in reversed(part.to_dicts())}
        lines.append({"corpus": corpus, "certificate": certificate, "metric": Metric(metric), "cells": cells})
    return lines


def _by_germline(frame: pl.DataFrame) -> list[dict[str, object]]:
    """One line per certificate and status: how residues of the germline, and others, are predicted."""
    rows = frame.filter(pl.col("column") == "germline").sort("value")
    best = rows.unique(["certificate", "label", "metric"], keep="first", maintain_order=True)
    lines = []
    for certificate, status in best.select("certificate", "label").unique().sort("certificate", "label").rows():
        part = best.filter((pl.col("certificate") == certificate) & (pl.col("label") == status))
        cells = {row["metric"]: row for row in part.to_dicts()}
        tokens = part["tokens"][0]
        lines.append({"certificate": certificate, "status": status, "tokens": tokens, "cells": cells})
    return lines
