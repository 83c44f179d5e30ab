"""What all rules share: the checked study, names as regular expressions, and resources that grow with the input."""

import hashlib
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from tokenbounds.config import parse_study, row_json
from tokenbounds.config_certificates import training_corpora
from tokenbounds.corpus.sources import source_files
from tokenbounds.errors import TokenboundsError


def checked_study(raw: dict):
    """The study that a configuration describes; faults end the run before any job starts."""
    try:
        return parse_study(raw)
    except TokenboundsError as error:
        raise WorkflowError(str(error)) from None


def one_of(names: Iterable[str]) -> str:
    """A regular expression that matches exactly `names`; with no names it matches nothing."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)"


def models_of_kind(kind: str) -> str:
    """A regular expression for the names of the study's models of one kind."""
    return one_of(name for name, model in study.models.items() if model.kind == kind)


def growing(base: float, per_input_mb: float = 0.0) -> Callable:
    """A resource: `base`, plus `per_input_mb` for each MB of input files, times the attempt (1 at first)."""

    def amount(wildcards, input, attempt):
        return int((base + per_input_mb * input.size_mb) * attempt)

    return amount


study = checked_study(config)
