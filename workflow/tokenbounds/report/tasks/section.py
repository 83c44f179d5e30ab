"""What tasks of models of text come to: tables and figures in results/tasks, and sections of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl
from markupsafe import Markup

from tokenbounds.bounds.kinds import BPD
from tokenbounds.config import TaskSpec
from tokenbounds.errors import TokenboundsError
from tokenbounds.files import read_json
from tokenbounds.report import style, templates
from tokenbounds.report.formats import format_bytes, format_confidence, format_value
from tokenbounds.report.inline_svg import inline_svg
from tokenbounds.report.page import Section
from tokenbounds.report.records import read_certificates
from tokenbounds.report.spreadsheet import write_tables
from tokenbounds.report.tasks.generation import Answers, draw_generation, generation_table
from tokenbounds.report.tasks.memorization import draw_memorization, memorization_table
from tokenbounds.report.tasks.samples import sample_table, shown_samples
from tokenbounds.report.tasks.zero_shot import correlation_table, draw_zero_shot, zero_shot_table
from tokenbounds.rounding import percent_down

SCHEMA_VERSION = 1

# Each table that has a section of the page, in this order; its template and its figure bear its name.
_TITLES = {
    "generation": "Answers to prompts",
    "memorization": "Memorization",
    "samples": "Generated text",
    "zero_shot": "Zero-shot tasks",
}
_WORDS = {
    "shown": format_value,
    "bpd": BPD,
    "size": format_bytes,
    "confidence": format_confidence,
    "down": lambda share: percent_down(share, 1),
}


def write_task_results(
    tasks: Mapping[str, tuple[TaskSpec, Sequence[Path]]],
    directory: Path | str,
    certificate_paths: Sequence[Path | str] = (),
    report_paths: Iterable[Path | str] = (),
) -> list[Path]:
    """Write every table as Parquet and CSV, and every figure that has data, into `directory`.

    Parameters
    ----------
    tasks
        Each task by name, with the answers of its messages' models (`<message>.parquet`).
    directory
        Usually results/tasks.
    certificate_paths
        All certificates of the study, which zero-shot tasks and memorization are compared with.
    report_paths
        The encoder's reports on the messages (`messages/*.json`), for their bits per weight.

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
    results = [Answers.read(name, task, Path(path)) for name, (task, paths) in tasks.items() for path in paths]
    certificates = read_certificates(certificate_paths) if certificate_paths else []
    bits_per_weight = {Path(path).stem: read_json(path).get("bits_per_parameter") for path in report_paths}
    zero_shot = zero_shot_table(results, certificates)
    memorization = memorization_table(results, certificates, bits_per_weight)
    contents = {
        "generation": generation_table(results),
        "memorization": memorization,
        "samples": sample_table(results),
        "zero_shot": zero_shot,
        "correlation": correlation_table(zero_shot),
    }
    figures = {
        "generation": (contents["generation"], draw_generation),
        "memorization": (memorization.filter(pl.col("bits_per_weight").is_not_null()), draw_memorization),
        "zero_shot": (zero_shot.filter(pl.col("certified_bpd").is_not_null()), draw_zero_shot),
    }
    paths = write_tables(contents, directory, SCHEMA_VERSION)
    style.draw_again([(name, frame, draw) for name, (frame, draw) in figures.items() if frame.height], directory)
    return paths


def task_sections(directory: Path | str) -> list[Section]:
    """The sections of the page that show the tables and figures of `directory`; none for tables without rows.

    Raises
    ------
    TokenboundsError
        If a table or a figure cannot be read.
    """
    directory = Path(directory)
    correlation = _read_table(directory / "correlation.parquet").to_dicts()
    sections = []
    for name, title in _TITLES.items():
        table = _read_table(directory / f"{name}.parquet")
        if not table.height:
            continue
        anchor, svg = name.replace("_", "-"), directory / f"figure_{name}.svg"
        body = templates.render(
            "tokenbounds.report.tasks",
            f"{name}.html.jinja",
            _WORDS,
            rows=shown_samples(table) if name == "samples" else table.to_dicts(),
            correlation=correlation,
            figure=inline_svg(svg, anchor) if svg.is_file() else "",
        )
        sections.append(Section(anchor, title, Markup(body)))
    return sections


def _read_table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TokenboundsError(f"{path} cannot be read ({error}). Make the tables of tasks again.") from error
