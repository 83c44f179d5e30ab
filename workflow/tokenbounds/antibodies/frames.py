"""The reading frame of aligned nucleotides: determined by V's germline, the junction, or stated amino acids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenbounds.antibodies.translation import ALIGNMENT_GAPS, frame_of_germline, translate, translate_alignment

_SHORTEST_JUNCTION = 12
_SHORTEST_PEPTIDE = 4


def reading_frame(bases: str, germline_start: int | None, junction: str, peptides: tuple[str, ...]) -> int | None:
    """Column of the first whole codon: 0, 1 or 2; None if nothing determines it, or two sources contradict each other.

    Parameters
    ----------
    bases
        Aligned nucleotides in upper case; with `.` they have IMGT's gaps and begin with a whole codon.
    germline_start
        Base of the V gene, from 1, that is aligned with the first one.
    junction
        Nucleotides from Cys 104 on; a codon begins where they do.
    peptides
        Amino acids that the row states for this chain: its junction's, or its whole sequence's.
    """
    stated = 0 if "." in bases else None if germline_start is None else frame_of_germline(germline_start)
    # A codon begins where the junction does. A short junction may be found where it is not.
    found = _ungapped(bases).find(_ungapped(junction)) if len(junction) >= _SHORTEST_JUNCTION else -1
    anchored = int(base_columns(bases)[found]) % 3 if found >= 0 else None
    if stated is not None and anchored is not None:
        return stated if stated == anchored else None
    if stated is not None or anchored is not None:
        return anchored if stated is None else stated
    fitting = [frame for frame in range(3) if _fits(translate_alignment(bases, frame).residues, peptides)]
    return fitting[0] if len(fitting) == 1 else None


def _fits(residues: str, peptides: tuple[str, ...]) -> bool:
    """Whether a translation is part of a stated peptide, or contains one."""
    stated = [peptide for peptide in peptides if len(peptide) >= _SHORTEST_PEPTIDE]
    return len(residues) >= _SHORTEST_PEPTIDE and any(
        peptide in residues or residues.strip("X") in peptide for peptide in stated
    )


def codon_columns(bases: str, residues: str) -> npt.NDArray[np.int64] | None:
    """Alignment columns of each residue's three bases, int64[n, 3], skipping gaps within codons.

    None if no frame of the bases, without their gaps, gives the residues.
    """
    ungapped, columns = _ungapped(bases), base_columns(bases)
    for frame in range(3) if residues else ():
        first = translate(ungapped, frame).find(residues)
        if first >= 0:
            start = frame + 3 * first
            return columns[start : start + 3 * len(residues)].reshape(-1, 3)
    return None


def base_columns(bases: str) -> npt.NDArray[np.int64]:
    """Columns of an alignment's row that hold a base, int64[bases]."""
    letters = np.frombuffer(bases.encode("latin-1", errors="replace"), np.uint8)
    return np.flatnonzero(np.logical_and.reduce([letters != ord(gap) for gap in ALIGNMENT_GAPS]))


def _ungapped(text: str) -> str:
    return text.replace("-", "").replace(".", "")
