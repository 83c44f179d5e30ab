"""Labels of a chain by the methods that its source names, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tokenbounds.antibodies.labels import Chain, Labels, regions_of_positions
from tokenbounds.antibodies.numbering import number_residues
from tokenbounds.antibodies.records import Antibody, ChainRecord
from tokenbounds.antibodies.regions import germline_status, positions_from_alignment, regions_from_columns


@dataclass(frozen=True)
class _Found:
    """What a method found: regions int8[n], positions int16[n] (0 where it tells none), and the chain if it tells."""

    region: npt.NDArray[np.int8]
    imgt: npt.NDArray[np.int16]
    chain: Chain = Chain.NONE


def label_antibody(antibody: Antibody, methods: Sequence[str]) -> Antibody:
    """The antibody with every residue of every chain labelled.

    Parameters
    ----------
    antibody
        Chains with the evidence that their source gave.
    methods
        `columns`, `alignment`, `immunum`, in the order in which they are tried.

    Raises
    ------
    MissingPackageError
        If numbering is needed and immunum is not installed.
    """
    chains = tuple(_label_chain(chain, methods, antibody.where) for chain in antibody.chains)
    return replace(antibody, chains=chains)


def _label_chain(record: ChainRecord, methods: Sequence[str], where: str) -> ChainRecord:
    bare = record.residues.replace("-", "")
    method, found = _find(bare, record, methods, where)
    germline = germline_status(bare, record.evidence)
    labels = Labels(found.region, np.zeros(len(bare), np.int8) if germline is None else germline, found.imgt)
    if len(bare) != len(record.residues):
        labels = _around_gaps(record.residues, labels)
    return replace(record, labels=labels, regions_from=method, chain=record.chain or found.chain)


def _find(bare: str, record: ChainRecord, methods: Sequence[str], where: str) -> tuple[str, _Found]:
    """The first method that labels the residues, and what it found."""
    for method in methods:
        found = _METHODS[method](bare, record, where)
        if found is not None:
            return method, found
    nothing = Labels.nothing(len(bare))
    return "none", _Found(nothing.region, nothing.imgt)


def _from_columns(bare: str, record: ChainRecord, where: str) -> _Found | None:
    """The row's numbering, which tells positions too, unless the row's region columns label more residues."""
    evidence, found = record.evidence, []
    if len(evidence.imgt) == len(bare):
        stated = np.array(evidence.imgt, np.int16)
        found.append(_Found(regions_of_positions(stated), stated))
    regions = regions_from_columns(bare, evidence)
    if regions is not None:
        positions = positions_from_alignment(evidence)
        if positions is None or len(positions) != len(bare):
            positions = np.zeros(len(bare), np.int16)
        found.append(_Found(regions, positions))
    return max(found, key=lambda each: np.count_nonzero(each.region), default=None)


def _from_alignment(bare: str, record: ChainRecord, where: str) -> _Found | None:
    positions = positions_from_alignment(record.evidence)
    if positions is None or len(positions) != len(bare):
        return None
    return _Found(regions_of_positions(positions), positions)


def _from_immunum(bare: str, record: ChainRecord, where: str) -> _Found | None:
    numbered = number_residues(bare, where)
    if numbered is None:
        return None
    positions, chain = numbered
    return _Found(regions_of_positions(positions), positions, chain)


_METHODS = {"columns": _from_columns, "alignment": _from_alignment, "immunum": _from_immunum}


def _around_gaps(residues: str, labels: Labels) -> Labels:
    """Labels of a sequence with gaps, from those of its residues: a gap has none."""
    places = np.flatnonzero(np.frombuffer(residues.encode(), np.uint8) != ord("-"))
    spread = Labels.nothing(len(residues))
    for name in ("region", "germline", "imgt"):
        getattr(spread, name)[places] = getattr(labels, name)
    return spread
