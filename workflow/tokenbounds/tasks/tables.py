"""Tables of variants and what was measured of them: comma- or tab-separated, plain or .gz, columns by name."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.vocabulary import AMINO_ACIDS
from tokenbounds.config import AffinityTask
from tokenbounds.corpus.sources import find_files
from tokenbounds.errors import TokenboundsError

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_WHOLE = "all"
_LETTERS = frozenset(AMINO_ACIDS)
_TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "newline": ""}


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Attributes
    ----------
    antibody
        Which antibody it is a variant of.
    value
        What was measured; NaN where nothing was.
    chains
        Kind and residues of its one or two chains.
    reason
        Why it is left out; empty if it is not.
    """

    antibody: str
    value: float
    chains: tuple[tuple[Chain, str], ...]
    reason: str = ""


def affinity_files(task: AffinityTask) -> list[Path]:
    """The task's tables, sorted.

    Raises
    ------
    CorpusError
        If a path matches no file.
    """
    return find_files(task.paths, SUFFIXES)


def read_variants(task: AffinityTask) -> list[Variant]:
    """Read the task's tables; rows that cannot be used are kept with the reason.

    Raises
    ------
    TokenboundsError
        If a table cannot be read or lacks a column.
    """
    return [variant for path in affinity_files(task) for variant in _read_table(path, task)]


def _read_table(path: Path, task: AffinityTask) -> Iterator[Variant]:
    columns = {key: getattr(task, key) for key in ("value", "antibody", "sequence", "heavy", "light")}
    wanted = {key: column for key, column in columns.items() if column is not None}
    try:
        with gzip.open(path, "rt", **_TEXT) if path.suffix == ".gz" else path.open("r", **_TEXT) as stream:
            reader = csv.DictReader(stream, delimiter="\t" if ".tsv" in path.suffixes else ",")
            names = reader.fieldnames or []
            for key, column in wanted.items():
                if column not in names:
                    there = ", ".join(names) or "nothing"
                    raise TokenboundsError(
                        f"{path} has no column '{column}' (it has: {there}). Set the task's '{key}'."
                    )
            for row in reader:
                yield _variant({key: row[column] for key, column in wanted.items()})
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise TokenboundsError(f"{path} cannot be read as a table ({error}). Check the file.") from error


def _variant(row: dict[str, str | None]) -> Variant:
    kinds = (("sequence", Chain.NONE), ("heavy", Chain.HEAVY), ("light", Chain.LIGHT))
    chains = tuple((kind, (row[key] or "").strip().upper()) for key, kind in kinds if key in row)
    antibody = (row.get("antibody") or _WHOLE).strip()
    value = _number(row["value"])
    reason = ""
    if math.isnan(value):
        reason = "no value"
    elif not all(residues for _, residues in chains):
        reason = "no sequence"
    elif not all(_LETTERS.issuperset(residues) for _, residues in chains):
        reason = "letters that are no amino acid"
    return Variant(antibody, value, chains, reason)


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
