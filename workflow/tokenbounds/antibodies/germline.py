"""Germline status of residues: codon against codon where nucleotides are aligned, otherwise residue against residue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenbounds.antibodies.evidence import Evidence
from tokenbounds.antibodies.frames import codon_columns
from tokenbounds.antibodies.labels import Germline
from tokenbounds.antibodies.translation import ALIGNMENT_GAPS, translate_aligned_codon

_SHIFTS = (-3, -2, -1, 1, 2, 3)
_SHORTEST_SHIFTED = 8


def germline_status(residues: str, evidence: Evidence) -> npt.NDArray[np.int8] | None:
    """Germline status, int8[n], from the germline alignment; None if there is none that matches the residues.

    A residue is compared with the germline codon aligned with its own. Where a gap cuts its own codon, the status is
    UNKNOWN; where the germline's is cut or missing, it is UNTEMPLATED.
    """
    bases = evidence.germline_bases
    if len(bases) == len(evidence.bases) > 0:
        codons = _codons(residues, evidence)
        if codons is not None:
            germline = (bases[a] + bases[b] + bases[c] for a, b, c in codons.tolist())
            facing = "".join(translate_aligned_codon(codon) or "-" for codon in germline)
            status = _compare(residues, facing)
            status[codons[:, 2] - codons[:, 0] != 2] = Germline.UNKNOWN
            return status
        if "-" in bases or "-" in evidence.bases:
            return None
    if not evidence.germline_residues or len(evidence.germline_residues) != len(evidence.aligned_residues):
        return None
    pairs = zip(evidence.aligned_residues, evidence.germline_residues, strict=True)
    facing = "".join(other for own, other in pairs if own not in ALIGNMENT_GAPS)
    if len(facing) != len(residues):
        return None
    status = _compare(residues, facing)
    status[_shifted(residues, facing)] = Germline.UNKNOWN
    return status


def _codons(residues: str, evidence: Evidence) -> npt.NDArray[np.int64] | None:
    """Columns of the residues' codons, int64[n, 3]; None if the aligned nucleotides do not give the residues."""
    alignment = evidence.alignment
    if alignment is not None and len(alignment.columns) == len(residues):
        return alignment.columns[:, None] + np.arange(3)
    return codon_columns(evidence.bases, residues)


def _compare(residues: str, facing: str) -> npt.NDArray[np.int8]:
    own, other = _codes(residues), _codes(facing)
    status = np.where(own == other, Germline.GERMLINE, Germline.NON_GERMLINE).astype(np.int8)
    status[own == ord("X")] = Germline.UNKNOWN
    for absent in "X" + ALIGNMENT_GAPS:
        status[other == ord(absent)] = Germline.UNTEMPLATED
    return status


def _shifted(residues: str, facing: str) -> npt.NDArray[np.bool_]:
    """Residues, bool[n], of stretches that agree with the germline a few residues on, but not where they are.

    Such a stretch is between two indels that the alignment of amino acids does not show.
    """
    own, other = _codes(residues), _codes(facing)
    n, found = len(own), np.zeros(len(own), bool)
    for shift in _SHIFTS:
        inside = np.arange(max(0, -shift), min(n, n - shift))
        agree = np.zeros(n + 1, bool)  # one more, always false, so that every stretch ends
        agree[inside] = own[inside] == other[inside + shift]
        # Starts and ends of the stretches, in turn.
        edges = np.flatnonzero(np.diff(agree, prepend=False))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            here = own[start:stop] == other[start:stop]
            if stop - start >= _SHORTEST_SHIFTED and 2 * np.count_nonzero(here) < stop - start:
                found[start:stop] = True
    return found


def _codes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode("latin-1", errors="replace"), np.uint8)
