"""Tables of variants and their measured values: comma- or tab-separated, plain or .gz, columns by name."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.readers.cells import name_in
from tokenbounds.antibodies.readers.tables import Row, open_table
from tokenbounds.antibodies.residues import refuse_nucleotides
from tokenbounds.antibodies.vocabulary import AMINO_ACIDS
from tokenbounds.config import AffinityTask
from tokenbounds.corpus.source_files import find_files
from tokenbounds.errors import TokenboundsError

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_COLUMNS = ("value", "antibody", "sequence", "heavy", "light")
_CHAINS = {"sequence": Chain.NONE, "heavy": Chain.HEAVY, "light": Chain.LIGHT}
_WHOLE = "all"
_LETTERS = frozenset(AMINO_ACIDS)
_GAPS = str.maketrans("", "", "-.")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_LIMIT = re.compile(r"[<>≤≥]")
NO_ANTIBODY = "no antibody named"
NO_VALUE = "no value"
ONLY_A_LIMIT = "only a limit (< or >)"
NO_NUMBER = "a value that is not a number"
NO_SEQUENCE = "no sequence"
FOREIGN_LETTERS = "letters that are not amino acids"
REPEATED = "the same chains again, in the median"


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Attributes
    ----------
    antibody
        Which antibody it is a variant of.
    value
        What was measured; NaN where no number was.
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

    Chains that were measured several times for one antibody count once: the first row has the median of the values.

    Raises
    ------
    TokenboundsError
        If a table cannot be read, lacks a column, or has no row that can be used.
    """
    variants: list[Variant] = []
    for path in affinity_files(task):
        found = list(_read_table(path, task))
        if all(variant.reason for variant in found):
            reasons = "; ".join(count_reasons(variant.reason for variant in found)) or "it has none"
            raise TokenboundsError(
                f"{path} has no row that can be used ({reasons}). Name the columns of values and of sequences."
            )
        variants += found
    return _merge_repeated(variants)


def count_reasons(reasons: Iterable[str]) -> list[str]:
    """How many rows are left out for each reason, in alphabetical order: `2 no value`. Used rows have the reason ""."""
    counts = Counter(reason for reason in reasons if reason)
    return [f"{counts[reason]} {reason}" for reason in sorted(counts)]


def _read_table(path: Path, task: AffinityTask) -> Iterator[Variant]:
    wanted = {key: getattr(task, key) for key in _COLUMNS if getattr(task, key) is not None}
    with open_table(path) as (table, _):
        for key, column in wanted.items():
            if column not in table.columns:
                there = ", ".join(table.columns)
                raise TokenboundsError(f"{path} has no column '{column}' (it has: {there}). Set the task's '{key}'.")
        for row in table.rows():
            yield _read_variant(row, wanted)


def _read_variant(row: Row, wanted: dict[str, str]) -> Variant:
    chains = tuple(
        (kind, _residues(row.text(wanted[key]), f"{row.where}, column '{wanted[key]}'"))
        for key, kind in _CHAINS.items()
        if key in wanted
    )
    antibody = name_in(row.text(wanted["antibody"])) if "antibody" in wanted else _WHOLE
    value, reason = _read_value(row.text(wanted["value"]))
    if not antibody:
        reason = NO_ANTIBODY
    elif not reason and not all(residues for _, residues in chains):
        reason = NO_SEQUENCE
    elif not reason and not all(_LETTERS.issuperset(residues) for _, residues in chains):
        reason = FOREIGN_LETTERS
    return Variant(antibody, value, chains, reason)


def _residues(text: str, where: str) -> str:
    refuse_nucleotides(text, where, "Name a column of amino acids.")
    return "".join(text.split()).upper().translate(_GAPS).rstrip("*_")


def _read_value(text: str) -> tuple[float, str]:
    """A measured value, or NaN and why there is none."""
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text), ""
    if not text:
        return math.nan, NO_VALUE
    return math.nan, ONLY_A_LIMIT if _LIMIT.search(text) else NO_NUMBER


def _merge_repeated(variants: Sequence[Variant]) -> list[Variant]:
    merged = list(variants)
    places: dict[tuple[str, tuple[tuple[Chain, str], ...]], list[int]] = {}
    for number, variant in enumerate(variants):
        if not variant.reason:
            places.setdefault((variant.antibody, variant.chains), []).append(number)
    for numbers in places.values():
        middle = statistics.median(variants[number].value for number in numbers)
        merged[numbers[0]] = replace(variants[numbers[0]], value=middle)
        for number in numbers[1:]:
            merged[number] = replace(variants[number], reason=REPEATED)
    return merged
