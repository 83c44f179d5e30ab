"""Labels of a chain by the methods that its source names, in their order; every choice and refusal is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tokenbounds.antibodies.beliefs import definition_fault, numbering_fault
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.germline import germline_status
from tokenbounds.antibodies.labels import Chain, Labels, regions_of_positions
from tokenbounds.antibodies.numbering import number_residues
from tokenbounds.antibodies.records import Antibody, ChainRecord
from tokenbounds.antibodies.regions import positions_from_alignment, regions_from_columns


@dataclass(frozen=True)
class _Found:
    """What a method found: its name, regions int8[n], positions int16[n] (0 where it gives none), the chain if
    given."""

    method: str
    region: npt.NDArray[np.int8]
    imgt: npt.NDArray[np.int16]
    chain: Chain = Chain.NONE


def label_antibody(antibody: Antibody, methods: Sequence[str], counts: ReadingCounts) -> Antibody | None:
    """The antibody with every residue of every chain labelled; None if numbering contradicts the stated chain.

    Parameters
    ----------
    antibody
        Chains with the evidence that their source gave.
    methods
        `columns`, `alignment`, `immunum`, in the order in which they are tried.
    counts
        Receives which evidence was refused, and what is left out.

    Raises
    ------
    MissingPackageError
        If numbering is needed and immunum is not installed.
    """
    found = [_Labelling(chain, antibody.where, counts).find(methods) for chain in antibody.chains]
    others = sum(
        found.chain not in (Chain.NONE, chain.chain) and chain.chain is not Chain.NONE
        for found, chain in zip(found, antibody.chains, strict=True)
    )
    if others:
        counts.add("dropped", "other_chain", others)
        counts.add("dropped", "unpaired", len(antibody.chains) - others)
        return None
    chains = (_labelled(chain, each) for chain, each in zip(antibody.chains, found, strict=True))
    return replace(antibody, chains=tuple(chains))


def _labelled(record: ChainRecord, found: _Found) -> ChainRecord:
    bare = record.residues.replace("-", "")  # n residues; labels are int8 or int16 [n]
    germline = germline_status(bare, record.evidence)
    labels = Labels(found.region, np.zeros(len(bare), np.int8) if germline is None else germline, found.imgt)
    if len(bare) != len(record.residues):
        labels = _around_gaps(record.residues, labels)
    return replace(record, labels=labels, regions_from=found.method, chain=record.chain or found.chain)


class _Labelling:
    """One chain and the methods that may label it."""

    def __init__(self, record: ChainRecord, where: str, counts: ReadingCounts) -> None:
        self._record, self._where, self._counts = record, where, counts
        self._bare = record.residues.replace("-", "")

    def find(self, methods: Sequence[str]) -> _Found:
        """What the first method that labels the residues found; the method `none` with no labels, if none does."""
        of_method = {"columns": self._columns, "alignment": self._alignment, "immunum": self._immunum}
        for method in methods:
            found = of_method[method]()
            if found is not None:
                return found
        nothing = Labels.nothing(len(self._bare))
        return _Found("none", nothing.region, nothing.imgt)

    def _columns(self) -> _Found | None:
        """The row's numbering, which gives positions too, unless the row's region columns label more residues."""
        found = [each for each in (self._stated_numbering(), self._region_columns()) if each is not None]
        return max(found, key=lambda each: np.count_nonzero(each.region), default=None)

    def _stated_numbering(self) -> _Found | None:
        evidence = self._record.evidence
        if len(evidence.imgt) != len(self._bare) or not self._bare:
            return None
        stated = np.array(evidence.imgt, np.int16)
        fault = numbering_fault(self._bare, stated)
        if not fault and evidence.numbered_chain not in (Chain.NONE, self._record.chain or evidence.numbered_chain):
            fault = "chain"
        if fault:
            self._refuse("numbering", fault)
            return None
        return _Found("numbering", regions_of_positions(stated), stated, evidence.numbered_chain)

    def _region_columns(self) -> _Found | None:
        evidence = self._record.evidence
        regions = regions_from_columns(self._bare, evidence)
        if regions is None:
            return None
        fault = definition_fault(self._bare, regions, evidence)
        if fault:
            self._refuse("columns", fault)
            return None
        positions = positions_from_alignment(evidence)
        if positions is None or len(positions) != len(self._bare):
            positions = np.zeros(len(self._bare), np.int16)
        return _Found("columns", regions, positions)

    def _alignment(self) -> _Found | None:
        positions = positions_from_alignment(self._record.evidence)
        if positions is None or len(positions) != len(self._bare):
            return None
        return _Found("alignment", regions_of_positions(positions), positions)

    def _immunum(self) -> _Found | None:
        numbered = number_residues(self._bare, self._record.chain, self._where)
        if numbered is None:
            return None
        fault = numbering_fault(self._bare, numbered.positions)
        if fault:
            self._refuse("immunum", fault)
            return None
        self._counts.add("noted", "further_domains", numbered.others)
        return _Found("immunum", regions_of_positions(numbered.positions), numbered.positions, numbered.chain)

    def _refuse(self, method: str, fault: str) -> None:
        self._counts.add("regions_refused", f"{method}_{fault}")


def _around_gaps(residues: str, labels: Labels) -> Labels:
    """Labels of a sequence with gaps, from those of its residues: a gap has none."""
    places = np.flatnonzero(np.frombuffer(residues.encode(), np.uint8) != ord("-"))  # of the residues, [n]
    spread = Labels.nothing(len(residues))
    for name in ("region", "germline", "imgt"):
        getattr(spread, name)[places] = getattr(labels, name)
    return spread
