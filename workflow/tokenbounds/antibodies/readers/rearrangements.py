"""One chain from the columns of an AIRR rearrangement, as AIRR tables and OAS data units name them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.evidence import Evidence
from tokenbounds.antibodies.frames import reading_frame
from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.readers.cells import chain_in, truth_in, v_genes_in
from tokenbounds.antibodies.readers.tables import Row
from tokenbounds.antibodies.records import ChainRecord
from tokenbounds.antibodies.residues import clean_residues, refuse_nucleotides
from tokenbounds.antibodies.translation import (
    NUCLEOTIDES,
    Translation,
    reverse_complement,
    translate,
    translate_alignment,
)
from tokenbounds.config import KeepSpec

SEQUENCE_COLUMNS = ("sequence_alignment_aa", "sequence_alignment", "sequence_aa", "sequence")
REGION_COLUMNS = ("fwr1", "cdr1", "fwr2", "cdr2", "fwr3", "cdr3", "fwr4")
_FOREIGN_BASE = re.compile(f"[^{''.join(sorted(NUCLEOTIDES))}.-]")


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
        Column of amino acids that takes precedence over all others.
    germline
        Column of the germline alignment in nucleotides.
    suffix
        Appended to every column's name, e.g. `_heavy`.
    """

    keep: KeepSpec
    chain: Chain | None = None
    residues: str | None = None
    germline: str = "germline_alignment"
    suffix: str = ""


def read_rearrangement(row: Row, options: RearrangementOptions, counts: ReadingCounts) -> ChainRecord | None:
    """One chain of a row; None if it is left out, which `counts` records.

    Raises
    ------
    CorpusError
        If a cell from which the chain is read has an invalid value. An invalid cell that is mere evidence of
        regions or germline is ignored and counted.
    """
    counts.add("sequences", "read")
    cells = _Cells(row, options.suffix, counts)
    fault, chain = _admit(cells, options, counts)
    found = None
    if not fault:
        found, fault = _find_residues(cells, options)
    if found is None:
        counts.add("dropped", fault)
        return None
    where = f"{row.where}, column '{found.column}'"
    if not found.translated:
        refuse_nucleotides(found.residues, where, "Name a column of amino acids in 'residues'.")
    cleaned = clean_residues(found.residues, options.keep, where, counts)
    if cleaned.fault:
        counts.add("dropped", cleaned.fault)
        return None
    counts.add("changed", "translated", int(found.translated))
    evidence = _evidence(cells, found, cleaned.residues.replace("-", ""), options)
    stated_length = cells.number("junction_length")
    return ChainRecord(
        residues=cleaned.residues,
        chain=chain,
        v_genes=v_genes_in(cells.text("v_call")),
        junction_length=stated_length or len(evidence.junction) or 3 * len(evidence.junction_residues) or None,
        evidence=evidence,
    )


class _Cells:
    """A row's cells by AIRR's names, the suffix added."""

    def __init__(self, row: Row, suffix: str, counts: ReadingCounts) -> None:
        self._row, self._suffix, self._counts = row, suffix, counts

    def text(self, column: str) -> str:
        return self._row.text(column + self._suffix)

    def integer(self, column: str) -> int | None:
        return self._row.integer(column + self._suffix)

    def number(self, column: str) -> int | None:
        """A number that is mere evidence; None, which is counted, if the cell is not a number."""
        text = self.text(column).removesuffix(".0")
        self._counts.add("noted", "evidence_unreadable", int(bool(text) and not text.isdecimal()))
        return int(text) if text.isdecimal() else None

    def truth(self, column: str, *, strict: bool = True) -> bool | None:
        """Yes, no, or None where the cell does not say; another word is an error, if it matters."""
        try:
            return truth_in(self.text(column))
        except ValueError as error:
            if not strict:
                return None
            raise self._row.error(
                column + self._suffix, f"{str(error)[:40]!r} means neither yes nor no. Write T or F, or leave it empty."
            ) from None

    def nucleotides(self, column: str) -> str:
        """A cell of nucleotides and gaps in upper case."""
        bases = self.text(column).upper()
        foreign = _FOREIGN_BASE.search(bases)
        if foreign:
            raise self._row.error(column + self._suffix, f"{foreign.group()!r} is not a nucleotide. Correct the cell.")
        return bases

    def bases(self, column: str) -> str:
        """Nucleotides that are mere evidence; empty, which is counted, if the cell holds anything else."""
        bases = self.text(column).upper()
        foreign = _FOREIGN_BASE.search(bases) is not None
        self._counts.add("noted", "evidence_unreadable", int(foreign))
        return "" if foreign else bases

    def junction(self) -> tuple[str, str]:
        """Nucleotides and amino acids of the junction; some programs write these in the other's column."""
        stated, residues = self.text("junction").upper(), self.text("junction_aa").upper()
        return ("", residues or stated) if _FOREIGN_BASE.search(stated) else (stated, residues)

    def regions(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Amino acids and nucleotides of the regions; some programs write amino acids under the plain names."""
        residues = tuple(self.text(f"{name}_aa").upper() for name in REGION_COLUMNS)
        plain = tuple(self.text(name).upper() for name in REGION_COLUMNS)
        if not _FOREIGN_BASE.search("".join(plain)):
            return residues, plain
        self._counts.add("noted", "regions_in_amino_acids")
        return residues if all(residues) else plain, ()


@dataclass(frozen=True)
class _Found:
    """Where a chain's residues were found."""

    residues: str
    column: str
    translated: bool = False
    alignment: Translation | None = None


def _admit(cells: _Cells, options: RearrangementOptions, counts: ReadingCounts) -> tuple[str, Chain]:
    """Why a chain is left out (empty if it is not), and which chain it is."""
    of_gene = chain_in(cells.text("v_call"))
    chain = chain_in(cells.text("locus")) if cells.text("locus") else Chain.NONE
    if chain is Chain.NONE:
        chain = of_gene
    if chain is None:
        return "no_immunoglobulin", Chain.NONE
    if options.chain is not None and chain is not options.chain:
        return ("other_chain" if chain else "chain_unstated"), chain
    if of_gene is not Chain.NONE and of_gene is not chain:
        return "locus_contradicts_v_call", chain
    productive = cells.truth("productive", strict=not options.keep.unproductive)
    if productive is False and not options.keep.unproductive:
        return "unproductive", chain
    counts.add("noted", "productive_unstated", int(productive is None))
    return "", chain


def _find_residues(cells: _Cells, options: RearrangementOptions) -> tuple[_Found | None, str]:
    """A chain's residues from the best column that has them; otherwise None and why there are none."""
    fault = "no_sequence"
    for found in _candidates(cells, options):
        if found is None:
            fault = "frame_unknown"
        elif found.residues:
            return found, ""
    return None, fault


def _candidates(cells: _Cells, options: RearrangementOptions) -> Iterator[_Found | None]:
    """Yield a chain's residues as each column has them, the best one first; None for bases of an unknown frame."""
    if options.residues is not None:
        yield _Found(cells.text(options.residues), options.residues + options.suffix)
        return
    aligned = "sequence_alignment_aa"
    yield _Found(cells.text(aligned), aligned + options.suffix)
    bases = cells.nucleotides("sequence_alignment")
    frame = _frame(cells, bases, ("sequence_aa", "junction_aa"))
    if bases and frame is None:
        yield None
    else:
        translation = translate_alignment(bases, frame or 0)
        yield _Found(translation.residues, "sequence_alignment" + options.suffix, True, translation)
    yield _Found(cells.text("sequence_aa"), "sequence_aa" + options.suffix)
    bases = _read_of_domain(cells)
    frame = _frame(cells, bases, ("junction_aa",))
    yield None if bases and frame is None else _Found(translate(bases, frame or 0), "sequence" + options.suffix, True)


def _frame(cells: _Cells, bases: str, peptides: tuple[str, ...]) -> int | None:
    """The reading frame of bases that begin where V does, if anything determines it."""
    if not bases:
        return None
    stated = tuple(cells.text(column).upper() for column in peptides)
    junction, junction_residues = cells.junction()
    return reading_frame(bases, cells.integer("v_germline_start"), junction, (*stated, junction_residues))


def _read_of_domain(cells: _Cells) -> str:
    """Nucleotides of the rearrangement within the read, from the beginning of V to the end of J; empty if unknown."""
    bases, first = cells.nucleotides("sequence"), cells.integer("v_sequence_start")
    if not bases or first is None:
        return ""
    if cells.truth("rev_comp"):
        bases = reverse_complement(bases)
    return bases[max(0, first - 1) : cells.integer("j_sequence_end")]


def _evidence(cells: _Cells, found: _Found, residues: str, options: RearrangementOptions) -> Evidence:
    """What the row says about its residues, given without gaps."""
    aligned = cells.text("sequence_alignment_aa").upper()
    bases = cells.bases("sequence_alignment")
    alignment = found.alignment or _translation_of(bases, residues)
    if alignment is not None and len(alignment.residues) > len(residues):
        # The stop at its end is not a residue.
        alignment = Translation(alignment.residues[: len(residues)], alignment.columns[: len(residues)])
    region_residues, region_bases = cells.regions()
    junction, junction_residues = cells.junction()
    return Evidence(
        region_residues=region_residues,
        region_bases=region_bases,
        alignment=alignment,
        bases=bases,
        germline_bases=cells.bases(options.germline),
        aligned_residues=aligned if found.residues.upper() == aligned else "",
        germline_residues=cells.text("germline_alignment_aa").upper(),
        junction=junction,
        junction_residues=junction_residues,
    )


def _translation_of(bases: str, residues: str) -> Translation | None:
    """The translation of aligned nucleotides that gives the residues, in any frame; None if none does."""
    for frame in range(3) if bases else ():
        translation = translate_alignment(bases, frame)
        if translation.residues == residues:
            return translation
    return None
