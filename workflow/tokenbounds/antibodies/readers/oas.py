"""Data units of the Observed Antibody Space: a line of metadata, a header, and a row for each sequence or pair."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.readers.cells import chain_in, name_in
from tokenbounds.antibodies.readers.rearrangements import RearrangementOptions, read_rearrangement
from tokenbounds.antibodies.readers.tables import FILE_AS_VALUE, Row, Table, name_of, open_table, require_columns
from tokenbounds.antibodies.records import Antibody, ChainRecord
from tokenbounds.config import OasSource
from tokenbounds.errors import CorpusError
from tokenbounds.files import parse_json

_SUFFIXES = {Chain.HEAVY: "_heavy", Chain.LIGHT: "_light"}
_UNSTATED = "no"
_POSITION = re.compile(r"\d{1,3}")
_NUMBERED_REGION = re.compile(r"(?:fw|cdr)([hkl])\d")


def read_oas(source: OasSource, files: Sequence[Path], counts: ReadingCounts) -> Iterator[Antibody]:
    """Stream the chains or pairs of OAS data units, not labelled yet.

    Parameters
    ----------
    source
        Which chains are read.
    files
        The units, in order.
    counts
        Receives what was read, changed and left out.

    Raises
    ------
    CorpusError
        If a file has no metadata line, lacks a column that is named, or cannot be read.
    """
    for path in files:
        with open_table(path, metadata_line=True) as (table, line):
            metadata = _parse_metadata(line, path)
            _check_columns(table, path, source, metadata)
            for row in table.rows():
                donor = _donor(row, source, path, metadata, counts)
                for chains in _read_row(row, table, source, counts):
                    name = row.text("sequence_id") or row.text("sequence_id_heavy") or row.where
                    clone = name_of(row, source.clone, path, counts, "clone")
                    yield Antibody(name=name, where=row.where, chains=chains, clone=clone, donor=donor)


def _is_paired(table: Table) -> bool:
    return any(column.endswith("_heavy") for column in table.columns)


def _read_row(row: Row, table: Table, source: OasSource, counts: ReadingCounts) -> Iterator[tuple[ChainRecord, ...]]:
    """Yield the chains of a row, together if the source asks for pairs, otherwise one by one."""
    if not _is_paired(table):
        wanted = {"heavy": Chain.HEAVY, "light": Chain.LIGHT}.get(source.chains)
        chain = _read_chain(row, RearrangementOptions(source.keep, wanted), counts)
        if chain is not None:
            yield (chain,)
        return
    found = [
        _read_chain(row, RearrangementOptions(source.keep, chain, suffix=suffix), counts)
        for chain, suffix in _SUFFIXES.items()
        if source.chains in ("any", "paired", chain.label)
    ]
    chains = tuple(chain for chain in found if chain is not None)
    if source.chains != "paired":
        yield from ((chain,) for chain in chains)
    elif len(chains) == len(_SUFFIXES):
        yield chains
    else:
        counts.add("dropped", "unpaired", len(chains))


def _read_chain(row: Row, options: RearrangementOptions, counts: ReadingCounts) -> ChainRecord | None:
    chain = read_rearrangement(row, options, counts)
    if chain is None:
        return None
    imgt, numbered = _stated_numbering(row.text("ANARCI_numbering" + options.suffix), chain.residues.replace("-", ""))
    return replace(chain, evidence=replace(chain.evidence, imgt=imgt, numbered_chain=numbered))


def _stated_numbering(text: str, residues: str) -> tuple[tuple[int, ...], Chain]:
    """IMGT positions of residues from a cell such as `{'fwh1': {'1 ': 'Q', …}, …}`, 0 around them, and the chain.

    No positions if none fit.
    """
    try:
        regions = parse_json(text.replace("'", '"')) if text else {}
        numbered = [item for region in regions.values() for item in region.items()]
        letters = "".join(letter for _, letter in numbered)
        positions = [int(found.group()) for found in map(_POSITION.match, (name for name, _ in numbered)) if found]
        chains = {chain_in(found.group(1)) for found in map(_NUMBERED_REGION.match, regions) if found}
    except (ValueError, AttributeError, TypeError):
        return (), Chain.NONE
    first = residues.find(letters) if letters else -1
    if first < 0 or len(positions) != len(letters) or not all(1 <= position <= 128 for position in positions):
        return (), Chain.NONE
    chain = chains.pop() if len(chains) == 1 else None
    return (*[0] * first, *positions, *[0] * (len(residues) - first - len(letters))), chain or Chain.NONE


def _parse_metadata(line: str, path: Path) -> dict[str, Any]:
    """The unit's metadata: a JSON object that was written as the cells of a row."""
    cells = next(csv.reader([line]), [])
    try:
        # A spreadsheet that saved the unit will have added empty cells.
        metadata, fault = parse_json(",".join(cells).rstrip(",")), ""
    except ValueError as error:
        metadata, fault = None, f"({error}) "
    if not isinstance(metadata, dict):
        header = any(cell.strip().startswith("sequence_alignment_aa") for cell in cells)
        found = "Its first line is the header: the line of metadata before it is missing. " if header else fault
        raise CorpusError(
            f"{path} does not begin with a line of metadata in JSON, as OAS data units do. {found}Download the unit "
            "again, or read tables without it by a source of kind airr or csv."
        )
    return metadata


def _check_columns(table: Table, path: Path, source: OasSource, metadata: dict[str, Any]) -> None:
    require_columns(table, path, {"clone": source.clone})
    if source.donor not in metadata:
        require_columns(table, path, {"donor": source.donor})
    paired = _is_paired(table)
    if source.chains == "paired" and not paired:
        raise CorpusError(f"{path} is an unpaired unit. Set the source's 'chains' to heavy, light or any.")
    suffixes = [suffix for chain, suffix in _SUFFIXES.items() if source.chains in ("any", "paired", chain.label)]
    for suffix in suffixes if paired else [""]:
        require_columns(table, path, {"kind": f"sequence_alignment_aa{suffix}"})


def _donor(row: Row, source: OasSource, path: Path, metadata: dict[str, Any], counts: ReadingCounts) -> str:
    if source.donor is None or source.donor == FILE_AS_VALUE or source.donor not in metadata:
        return name_of(row, source.donor, path, counts, "donor")
    stated = name_in(str(metadata[source.donor]))
    return "" if stated.lower() == _UNSTATED else stated
