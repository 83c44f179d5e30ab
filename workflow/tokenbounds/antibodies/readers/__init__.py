"""The reader of each kind of source, and the endings of its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.readers.airr import read_airr
from tokenbounds.antibodies.readers.oas import read_oas
from tokenbounds.antibodies.readers.plain import read_csv, read_fasta
from tokenbounds.antibodies.records import Antibody
from tokenbounds.config import AirrSource, AntibodySource, CsvSource, FastaSource, OasSource

SUFFIXES: dict[str, tuple[str, ...]] = {
    "airr": (".tsv", ".tsv.gz"),
    "oas": (".csv", ".csv.gz"),
    "fasta": tuple(ending + packed for ending in (".fasta", ".fa", ".faa") for packed in ("", ".gz")),
    "csv": (".csv", ".csv.gz", ".tsv", ".tsv.gz"),
}
"""Endings by which a folder is searched."""


def read_source(source: AntibodySource, files: Sequence[Path], counts: ReadingCounts) -> Iterator[Antibody]:
    """Stream what a source's files hold, chain by chain or pair by pair, neither selected nor labelled.

    Raises
    ------
    CorpusError
        If a file cannot be read; the message names file, row and column.
    """
    match source:
        case AirrSource():
            return read_airr(source, files, counts)
        case OasSource():
            return read_oas(source, files, counts)
        case FastaSource():
            return read_fasta(source, files, counts)
        case CsvSource():
            return read_csv(source, files, counts)
