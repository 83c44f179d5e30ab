"""Regions and IMGT positions of a chain's residues, from the region columns or the IMGT-gapped alignment of its row.

Each labels every residue or declines.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenbounds.antibodies.evidence import Evidence
from tokenbounds.antibodies.labels import REGION_SPANS
from tokenbounds.antibodies.translation import translate

_DOMAIN_END = 128
_CYS_104_COLUMN = 3 * 103
_CDR3_FIRST, _CDR3_LEFT_LAST, _CDR3_RIGHT_FIRST, _CDR3_LAST = 105, 111, 112, 117
_FRAMEWORK4_RESIDUES = 11
_INNER = slice(1, 6)
_REGION_ORDER = tuple(region for region, _, _ in REGION_SPANS)


def regions_from_columns(residues: str, evidence: Evidence) -> npt.NDArray[np.int8] | None:
    """Regions, int8[n], from the row's region sequences; None if they are missing or not a part of the sequence.

    CDR1 to CDR3 must all be present; FWR1 and FWR4 may be missing. Residues before and after the regions are NONE, but
    if FWR4 is not stated (older versions of IgBLAST do not), up to 11 residues that end the sequence after CDR3 are it.
    """
    parts = [_ungapped(part) for part in evidence.region_residues]
    if all(parts[_INNER]) and parts:
        first = residues.find("".join(parts))
        return None if first < 0 else _spread(parts, len(residues), first, 0, 1)
    parts = [_ungapped(part) for part in evidence.region_bases]
    if all(parts[_INNER]) and parts:
        for frame in range(3):
            first = residues.find(translate("".join(parts), frame))
            if first >= 0:
                return _spread(parts, len(residues), first, frame, 3)
    return None


def _spread(parts: list[str], length: int, first: int, frame: int, width: int) -> npt.NDArray[np.int8]:
    """Regions of residues when residue `first` is letters `frame … frame+width-1` of the joined parts.

    The middle letter of a codon decides where a boundary cuts it.
    """
    lengths = [len(part) for part in parts]
    of_letter = np.repeat(np.array(_REGION_ORDER, np.int8), lengths)[frame + width // 2 :: width]
    regions = np.zeros(length, np.int8)
    stop = min(length, first + len(of_letter))
    regions[first:stop] = of_letter[: stop - first]
    if not parts[-1] and length - stop <= _FRAMEWORK4_RESIDUES:
        regions[stop:] = _REGION_ORDER[-1]
    return regions


def positions_from_alignment(evidence: Evidence) -> npt.NDArray[np.int16] | None:
    """IMGT positions, int16[n], from an IMGT-gapped alignment; None if there is none that can be checked.

    In IMGT's unique numbering alignment column 3(p - 1) begins the codon of position p up to Cys 104. The check is
    that the junction begins in column 309, where Cys 104 belongs, and is read in frame.
    """
    if evidence.alignment is None or not evidence.junction or len(evidence.junction) % 3:
        return None
    if not _ungapped(evidence.bases[_CYS_104_COLUMN:]).startswith(evidence.junction):
        return None
    columns = evidence.alignment.columns
    framework = int(np.searchsorted(columns, _CYS_104_COLUMN))
    if framework == len(columns) or columns[framework] != _CYS_104_COLUMN:
        return None
    positions = (columns // 3 + 1).astype(np.int16)
    rest = len(columns) - framework - 1
    cdr3 = cdr3_positions(len(evidence.junction) // 3 - 2)
    after = np.arange(118, 118 + max(0, rest - len(cdr3)))
    positions[framework + 1 :] = np.concatenate([cdr3, np.where(after <= _DOMAIN_END, after, 0)])[:rest]
    return positions


def cdr3_positions(length: int) -> npt.NDArray[np.int16]:
    """IMGT positions of a CDR3 of `length` residues, int16[length]: filled from both ends, 111 and 112 in the middle.

    Residues beyond 13 are insertions after 111 and before 112 and carry those numbers.
    """
    left = (length + 1) // 2
    ascending = np.minimum(np.arange(_CDR3_FIRST, _CDR3_FIRST + left), _CDR3_LEFT_LAST)
    descending = np.maximum(_CDR3_LAST - np.arange(max(0, length - left)), _CDR3_RIGHT_FIRST)
    return np.concatenate([ascending, descending[::-1]]).astype(np.int16)


def _ungapped(text: str) -> str:
    return text.replace("-", "").replace(".", "")
