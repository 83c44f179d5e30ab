"""One chain from the columns of an AIRR rearrangement, as AIRR tables and OAS data units name them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.records import ChainRecord
from tokenbounds.antibodies.regions import Evidence
from tokenbounds.antibodies.residues import clean_residues
from tokenbounds.antibodies.tables import Row
from tokenbounds.antibodies.translation import (
    NUCLEOTIDES,
    Translation,
    frame_of_germline,
    reverse_complement,
    translate,
    translate_alignment,
)
from tokenbounds.config import KeepSpec

SEQUENCE_COLUMNS = ("sequence_alignment_aa", "sequence_alignment", "sequence_aa", "sequence")
REGION_COLUMNS = ("fwr1", "cdr1", "fwr2", "cdr2", "fwr3", "cdr3", "fwr4")
_LOCUS = re.compile(r"\b(IG[HKL]|TR[ABDG])", re.IGNORECASE)
_V_GENE = re.compile(r"\b(?:IG[HKL]|TR[ABDG])V[^*,\s]+", re.IGNORECASE)
_CHAIN_OF_LOCUS = {"IGH": Chain.HEAVY, "IGK": Chain.LIGHT, "IGL": Chain.LIGHT}
_FOREIGN_BASE = re.compile(f"[^{''.join(sorted(NUCLEOTIDES))}.-]")
_TRUE = frozenset({"T", "TRUE", "1", "YES"})
_FALSE = frozenset({"F", "FALSE", "0", "NO"})


@dataclass(frozen=True)
class RearrangementOptions:
    """How rows are read.

    Attributes
    ----------
    keep
        Which irregular sequences stay.
    chain
        The only chain that is wanted; None for both.
    residues
        Column of amino acids that goes before all others.
    germline
        Column of the germline alignment in nucleotides.
    suffix
        Behind every column's name, e.g. `_heavy`.
    """

    keep: KeepSpec
    chain: Chain | None = None
    residues: str | None = None
    germline: str = "germline_alignment"
    suffix: str = ""


def v_genes(call: str) -> frozenset[str]:
    """Genes that a V call names, alleles and species left out, e.g. {IGHV3-11} of `Homsap IGHV3-11*05 F`."""
    return frozenset(gene.upper() for gene in _V_GENE.findall(call))


def read_rearrangement(row: Row, options: RearrangementOptions, counts: ReadingCounts) -> ChainRecord | None:
    """One chain of a row; None if it is left out, which `counts` tells.

    Raises
    ------
    CorpusError
        If a cell holds what its column cannot hold.
    """
    counts.add("sequences", "read")
    cells = _Cells(row, options.suffix)
    fault, chain = _admit(cells, options, counts)
    if fault:
        counts.add("dropped", fault)
        return None
    found = _find_residues(cells, options)
    if found is None:
        counts.add("dropped", "no_sequence")
        return None
    cleaned = clean_residues(found.residues, options.keep, f"{row.where}, column '{found.column}'", counts)
    if cleaned.fault:
        counts.add("dropped", cleaned.fault)
        return None
    counts.add("changed", "translated", int(found.translated))
    junction = cells.nucleotides("junction")
    return ChainRecord(
        residues=cleaned.residues,
        chain=chain,
        v_genes=v_genes(cells.text("v_call")),
        junction_length=cells.integer("junction_length") or len(junction) or 3 * len(cells.text("junction_aa")) or None,
        evidence=_evidence(cells, found, junction, options),
    )


class _Cells:
    """A row's cells by AIRR's names, the suffix added."""

    def __init__(self, row: Row, suffix: str) -> None:
        self.row = row
        self._suffix = suffix

    def text(self, column: str) -> str:
        return self.row.text(column + self._suffix)

    def integer(self, column: str) -> int | None:
        return self.row.integer(column + self._suffix)

    def nucleotides(self, column: str) -> str:
        """A cell of nucleotides and gaps in upper case."""
        bases = self.text(column).upper()
        foreign = _FOREIGN_BASE.search(bases)
        if foreign:
            raise self.row.error(column + self._suffix, f"{foreign.group()!r} is no nucleotide. Correct the cell.")
        return bases


@dataclass(frozen=True)
class _Found:
    """Where a chain's residues were found."""

    residues: str
    column: str
    translated: bool = False
    alignment: Translation | None = None


def _admit(cells: _Cells, options: RearrangementOptions, counts: ReadingCounts) -> tuple[str, Chain]:
    """Why a chain is left out (empty if it is not), and which chain it is."""
    locus = _LOCUS.search(cells.text("locus")) or _LOCUS.search(cells.text("v_call"))
    chain = Chain.NONE if locus is None else _CHAIN_OF_LOCUS.get(locus.group(1).upper(), Chain.NONE)
    if locus is not None and chain is Chain.NONE:
        return "no_immunoglobulin", chain
    if options.chain is not None and chain is not options.chain:
        return ("other_chain" if chain else "chain_unstated"), chain
    productive = cells.text("productive").upper()
    if productive in _FALSE and not options.keep.unproductive:
        return "unproductive", chain
    if productive not in _TRUE | _FALSE:
        counts.add("noted", "productive_unstated")
    return "", chain


def _find_residues(cells: _Cells, options: RearrangementOptions) -> _Found | None:
    for found in _candidates(cells, options):
        if found.residues:
            return found
    return None


def _candidates(cells: _Cells, options: RearrangementOptions) -> Iterator[_Found]:
    """Yield a chain's residues as each source has them, the best one first."""
    if options.residues is not None:
        yield _Found(cells.text(options.residues), options.residues + options.suffix)
        return
    aligned = "sequence_alignment_aa"
    yield _Found(cells.text(aligned), aligned + options.suffix)
    translation = _translate_alignment(cells)
    yield _Found(translation.residues, "sequence_alignment" + options.suffix, True, translation)
    yield _Found(cells.text("sequence_aa"), "sequence_aa" + options.suffix)
    yield _Found(_translate_read(cells), "sequence" + options.suffix, True)


def _translate_alignment(cells: _Cells) -> Translation:
    """The aligned nucleotides' translation. An IMGT-gapped alignment begins with a whole codon, others anywhere."""
    bases = cells.nucleotides("sequence_alignment")
    start = cells.integer("v_germline_start")
    return translate_alignment(bases, 0 if "." in bases or start is None else frame_of_germline(start))


def _translate_read(cells: _Cells) -> str:
    """Amino acids of the rearrangement within the read, from where V begins to where J ends; empty if unknown."""
    bases, first = cells.nucleotides("sequence"), cells.integer("v_sequence_start")
    if not bases or first is None:
        return ""
    if cells.text("rev_comp").upper() in _TRUE:
        bases = reverse_complement(bases)
    frame = frame_of_germline(cells.integer("v_germline_start") or 1)
    return translate(bases[max(0, first - 1) : cells.integer("j_sequence_end")], frame)


def _evidence(cells: _Cells, found: _Found, junction: str, options: RearrangementOptions) -> Evidence:
    aligned = cells.text("sequence_alignment_aa").upper()
    bases = cells.nucleotides("sequence_alignment")
    alignment = found.alignment
    if alignment is None and bases:
        translation = _translate_alignment(cells)
        ungapped = found.residues.upper().replace("-", "").replace(".", "")
        alignment = translation if translation.residues == ungapped else None
    return Evidence(
        region_residues=tuple(cells.text(f"{name}_aa").upper() for name in REGION_COLUMNS),
        region_bases=tuple(cells.nucleotides(name) for name in REGION_COLUMNS),
        alignment=alignment,
        bases=bases,
        germline_bases=cells.nucleotides(options.germline),
        aligned_residues=aligned if found.residues.upper() == aligned else "",
        germline_residues=cells.text("germline_alignment_aa").upper(),
        junction=junction,
    )
