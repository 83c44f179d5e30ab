"""A row as text and back: what Snakemake compares between runs, and hands to a script."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from tokenbounds.files import canonical_json


def row_json(row: Any) -> str:
    """Canonical JSON of one row, defaults filled in: equal for configurations that mean the same."""
    return canonical_json(TypeAdapter(type(row)).dump_python(row, mode="json"))


def parse_row(kind: Any, text: str) -> Any:
    """Rebuild a row from `row_json`; `kind` is its type, e.g. `CorpusSpec` or the union `ModelSpec`."""
    return TypeAdapter(kind).validate_json(text, extra="forbid")
