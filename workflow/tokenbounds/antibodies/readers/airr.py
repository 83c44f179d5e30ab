"""AIRR rearrangement tables: one chain per row, or two rows of a cell joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.readers.rearrangements import SEQUENCE_COLUMNS, RearrangementOptions, read_rearrangement
from tokenbounds.antibodies.readers.tables import Row, Table, name_of, open_table, require_columns
from tokenbounds.antibodies.records import Antibody
from tokenbounds.config import AirrSource
from tokenbounds.errors import CorpusError, MissingPackageError

_CHAINS = {"heavy": Chain.HEAVY, "light": Chain.LIGHT}


def read_airr(source: AirrSource, files: Sequence[Path], counts: ReadingCounts) -> Iterator[Antibody]:
    """Stream the chains of AIRR tables, not labelled yet. A paired source's chains carry the cell as their name.

    Parameters
    ----------
    source
        Which columns and chains are read.
    files
        The tables, in order.
    counts
        Receives what was read, changed and left out.

    Raises
    ------
    CorpusError
        If a file or a cell cannot be read, a column is missing, or a check against the AIRR schema fails.
    """
    options = RearrangementOptions(source.keep, _CHAINS.get(source.chains), source.residues, source.germline)
    for path in files:
        with open_table(path) as (table, _):
            _require_columns(table, path, source)
            check = _schema_check(table, path) if source.check_schema else None
            for row in table.rows():
                if check is not None:
                    check(row)
                chain = read_rearrangement(row, options, counts)
                if chain is not None:
                    paired = source.chains == "paired"
                    name = name_of(row, source.cell, path, counts, "cell") if paired else row.text("sequence_id")
                    yield Antibody(
                        name=name or row.where,
                        where=row.where,
                        chains=(chain,),
                        clone=name_of(row, source.clone, path, counts, "clone"),
                        donor=name_of(row, source.donor, path, counts, "donor"),
                    )


def _require_columns(table: Table, path: Path, source: AirrSource) -> None:
    require_columns(table, path, {"clone": source.clone, "donor": source.donor, "residues": source.residues})
    if source.germline != "germline_alignment":
        require_columns(table, path, {"germline": source.germline})
    if source.chains == "paired":
        require_columns(table, path, {"cell": source.cell})
    if source.residues is None and not set(SEQUENCE_COLUMNS) & set(table.columns):
        there = ", ".join(table.columns[:40])
        raise CorpusError(
            f"{path} has none of the columns {', '.join(SEQUENCE_COLUMNS)} (it has: {there}). Name the column of amino "
            "acids in the source's 'residues'."
        )


def _schema_check(table: Table, path: Path) -> Callable[[Row], None]:
    """Check the header by the package airr, and return the check of a row."""
    try:
        from airr.schema import RearrangementSchema, ValidationError
    except ImportError:
        raise MissingPackageError(
            "check_schema needs the package airr, which is not installed. Run `make install-antibodies` (or pip "
            "install airr), or leave 'check_schema' out."
        ) from None
    schema: Any = RearrangementSchema
    try:
        schema.validate_header(table.columns)
    except ValidationError as error:
        raise CorpusError(
            f"{path} is not an AIRR rearrangement table: {error}. Correct it, or leave out 'check_schema'."
        ) from error

    def check(row: Row) -> None:
        try:
            schema.validate_row(row.values)
        except ValidationError as error:
            raise CorpusError(
                f"{row.where} breaks the AIRR schema: {error}. Correct it, or leave out 'check_schema'."
            ) from error

    return check
