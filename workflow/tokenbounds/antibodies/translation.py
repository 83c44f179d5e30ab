"""From nucleotides to amino acids by the standard genetic code, keeping track of alignment columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

_BASES = "TCAG"
_STANDARD_CODE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
_CODONS = {"".join(codon): amino for codon, amino in zip(product(_BASES, repeat=3), _STANDARD_CODE, strict=True)}
_MEANING = {
    **{base: base for base in _BASES},
    **{"U": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC"},
    **{"B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"},
}
NUCLEOTIDES = frozenset(_MEANING)
ALIGNMENT_GAPS = "-."
_CUT = "-"
_COMPLEMENT = str.maketrans("ACGTURYSWKMBDHVN", "TGCAAYRSWMKVHDBN")


@dataclass(frozen=True)
class Translation:
    """Amino acids of an alignment.

    Attributes
    ----------
    residues
        One letter per codon; `X` where it is ambiguous or cut by a gap, `*` for a stop.
    columns
        For each residue, the alignment column of its codon's first base, int64[n].
    """

    residues: str
    columns: npt.NDArray[np.int64]


@lru_cache(maxsize=8192)
def translate_codon(codon: str) -> str:
    """The amino acid of three bases (upper case); `X` if they do not determine one."""
    meanings = [_MEANING.get(base, "") for base in codon]
    found = {_CODONS["".join(bases)] for bases in product(*meanings)}
    return found.pop() if len(found) == 1 else "X"


def translate_alignment(nucleotides: str, frame: int = 0) -> Translation:
    """Translate an aligned sequence (upper case; `.` and `-` are gaps), column triple by column triple.

    A triple of gaps is not a residue. A triple that is partly gaps is `X` inside the sequence; it is dropped at the
    ends, where it is what remains of a codon that was cut.

    Parameters
    ----------
    nucleotides
        The alignment's row.
    frame
        Column of the first whole codon: 0, 1 or 2.
    """
    amino_acids: list[str] = []
    columns: list[int] = []
    for column in range(frame, len(nucleotides) - 2, 3):
        amino_acid = translate_aligned_codon(nucleotides[column : column + 3])
        if amino_acid and (amino_acid != _CUT or amino_acids):
            amino_acids.append(amino_acid)
            columns.append(column)
    if amino_acids and amino_acids[-1] == _CUT:
        del amino_acids[-1], columns[-1]
    return Translation("".join(amino_acids).replace(_CUT, "X"), np.array(columns, np.int64))


@lru_cache(maxsize=8192)
def translate_aligned_codon(codon: str) -> str:
    """The amino acid of three columns; empty if all are gaps, `-` if some are."""
    gaps = sum(codon.count(gap) for gap in ALIGNMENT_GAPS)
    return ("", _CUT, _CUT, "")[gaps] if gaps else translate_codon(codon)


def translate(nucleotides: str, frame: int = 0) -> str:
    """Amino acids of an unaligned sequence (upper case) from base `frame` on; one or two last bases are dropped."""
    return "".join(translate_codon(nucleotides[at : at + 3]) for at in range(frame, len(nucleotides) - 2, 3))


def reverse_complement(nucleotides: str) -> str:
    """The other strand (upper case)."""
    return nucleotides.translate(_COMPLEMENT)[::-1]


def frame_of_germline(germline_start: int) -> int:
    """First base of a whole codon in a sequence whose first base aligns to base `germline_start` (from 1) of V."""
    return (1 - germline_start) % 3
