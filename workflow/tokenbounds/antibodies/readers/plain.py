"""Sequences without annotation: FASTA files, and tables with columns of sequences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.readers.cells import is_missing, name_in
from tokenbounds.antibodies.readers.files import open_lines
from tokenbounds.antibodies.readers.tables import FILE_AS_VALUE, name_of, open_table, require_columns
from tokenbounds.antibodies.records import Antibody, ChainRecord
from tokenbounds.antibodies.residues import clean_residues, refuse_nucleotides
from tokenbounds.antibodies.translation import NUCLEOTIDES, translate
from tokenbounds.config import CsvSource, FastaSource, KeepSpec
from tokenbounds.errors import CorpusError

_LONGEST_SEQUENCE = 1 << 26
_FIELD = re.compile(r"([^\s|;=]+)=([^|;\s]+)")
_FOREIGN_BASE = re.compile(f"[^{''.join(sorted(NUCLEOTIDES))}]")


@dataclass(frozen=True)
class _Reading:
    """How letters become residues."""

    keep: KeepSpec
    molecule: str
    counts: ReadingCounts

    def chain(self, raw: str, chain: Chain, where: str) -> ChainRecord | None:
        """A chain of the letters; None if it is left out, which the counts record."""
        self.counts.add("sequences", "read")
        letters = "".join(raw.split())
        if is_missing(letters):
            self.counts.add("dropped", "no_sequence")
            return None
        if self.molecule == "nucleotides":
            letters = _translated(letters, where)
        else:
            refuse_nucleotides(letters, where)
        cleaned = clean_residues(letters, self.keep, where, self.counts)
        if cleaned.fault:
            self.counts.add("dropped", cleaned.fault)
            return None
        self.counts.add("changed", "translated", int(self.molecule == "nucleotides"))
        return ChainRecord(cleaned.residues, chain)


def _translated(letters: str, where: str) -> str:
    bases = letters.upper().replace("-", "").replace(".", "")
    foreign = _FOREIGN_BASE.search(bases)
    if foreign:
        raise CorpusError(
            f"{where}: {foreign.group()!r} is not a nucleotide. Set the source's 'molecule: amino_acids'."
        )
    return translate(bases)


def read_fasta(source: FastaSource, files: Sequence[Path], counts: ReadingCounts) -> Iterator[Antibody]:
    """Stream the sequences of FASTA files, not labelled yet.

    Parameters
    ----------
    source
        What the letters are, and which fields of a header name clone and donor.
    files
        The files, in order.
    counts
        Receives what was read, changed and left out.

    Raises
    ------
    CorpusError
        If a file does not begin with a header, or cannot be read.
    """
    reading = _Reading(source.keep, source.molecule, counts)
    chain = {"heavy": Chain.HEAVY, "light": Chain.LIGHT}.get(source.chain or "", Chain.NONE)
    for path in files:
        fields_seen: set[str] = set()
        where = ""
        with open_lines(path) as lines:
            for where, header, letters in _fasta_entries(lines, path):
                fields = dict(_FIELD.findall(header))
                fields_seen |= fields.keys()
                record = reading.chain(letters, chain, f"{where}, sequence '{header[:60]}'")
                if record is not None:
                    yield Antibody(
                        name=re.split(r"[\s|;]", header, maxsplit=1)[0] or where,
                        where=where,
                        chains=(record,),
                        clone=_field(fields, source.clone, path, counts, "clone"),
                        donor=_field(fields, source.donor, path, counts, "donor"),
                    )
        for key, field in (("clone", source.clone), ("donor", source.donor)):
            if where and field not in (None, FILE_AS_VALUE, *fields_seen):
                there = ", ".join(sorted(fields_seen)[:40]) or "none"
                raise CorpusError(
                    f"{path}: no header has the field '{field}' (fields there are: {there}). Correct the source's "
                    f"'{key}'."
                )


def _field(fields: dict[str, str], key: str | None, path: Path, counts: ReadingCounts, what: str) -> str:
    if key == FILE_AS_VALUE:
        return path.name.split(".")[0]
    text = fields.get(key, "") if key else ""
    name = name_in(text)
    counts.add("noted", f"{what}_placeholder", int(bool(text) and not name))
    return name


def _fasta_entries(lines: Iterator[str], path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield place, header (without `>`) and letters of each entry."""
    where, header, parts, size = "", "", [""], 0
    for number, line in enumerate(lines, start=1):
        if line.startswith(">"):
            if where:
                yield where, header, "".join(parts)
            where, header, parts, size = f"{path}:{number}", line[1:].strip(), [], 0
        elif line.strip():
            if not where:
                raise CorpusError(f"{path}:{number} precedes the first header. A FASTA file begins with '>'.")
            parts.append(line.strip())
            size += len(line)
            if size > _LONGEST_SEQUENCE:
                raise CorpusError(f"{where} has more than {_LONGEST_SEQUENCE} letters. Is a header missing?")
    if where:
        yield where, header, "".join(parts)


def read_csv(source: CsvSource, files: Sequence[Path], counts: ReadingCounts) -> Iterator[Antibody]:
    """Stream the chains of tables, or their pairs if both columns are named, not labelled yet.

    Parameters and errors are those of `read_fasta`, with columns in place of fields.

    Raises
    ------
    CorpusError
        If a column that is named is missing, or a file cannot be read.
    """
    reading = _Reading(source.keep, source.molecule, counts)
    columns = {"heavy": source.heavy, "light": source.light}
    kinds = {Chain.HEAVY: source.heavy, Chain.LIGHT: source.light}
    others = {"clone": source.clone, "donor": source.donor, "name": source.name}
    for path in files:
        with open_table(path) as (table, _):
            require_columns(table, path, {**columns, **others})
            for row in table.rows():
                found = [
                    reading.chain(row.text(column), chain, f"{row.where}, column '{column}'")
                    for chain, column in kinds.items()
                    if column is not None
                ]
                chains = tuple(chain for chain in found if chain is not None)
                if len(chains) < len(found):
                    counts.add("dropped", "unpaired", len(chains))
                    continue
                yield Antibody(
                    name=row.text(source.name) or row.where,
                    where=row.where,
                    chains=chains,
                    clone=name_of(row, source.clone, path, counts, "clone"),
                    donor=name_of(row, source.donor, path, counts, "donor"),
                )
