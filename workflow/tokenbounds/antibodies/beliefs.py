"""What must hold of a numbering, or of stated regions, before they are trusted."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from tokenbounds.antibodies.evidence import Evidence
from tokenbounds.antibodies.labels import REGION_SPANS, Region
from tokenbounds.antibodies.translation import translate

_CYSTEINES = (23, 104)
_TRYPTOPHAN = 41
_FRAMEWORK3_FIRST, _FRAMEWORK4_FIRST = 66, 118
_FRAMEWORK4 = re.compile(r"[FW]G.G")
_FRAMEWORK4_AFTER = 8
"""Residues at the beginning of FWR3 in which its end is not looked for, because FWR3 may look like FWR4."""
_FRAMEWORK1 = re.compile(r".{2,3}[LMV][TVLQKR][EQ][SPWEDA]")
"""How FWR1 begins: QVQLVES, QVQLQQW, DIQMTQS, QSALTQP."""
_ROOM = {Region.CDR1: (0, 14), Region.FWR2: (14, 18), Region.CDR2: (0, 12), Region.FWR3: (32, 42)}
"""Fewest and most residues of a region that is within a numbering; of a CDR also where it is cut."""
_CDR3_ROOM = (2, 69)
_CDR3 = 5
"""Place of CDR3 among the seven regions."""


def numbering_fault(residues: str, positions: npt.NDArray[np.int16]) -> str:
    """Why IMGT positions of residues cannot be right; empty if nothing is wrong.

    Parameters
    ----------
    residues
        A chain, n letters.
    positions
        IMGT positions, int16[n], 0 outside the domain.

    Returns
    -------
    str
        `order` (positions go back), `anchors` (no Cys at 23 or 104, where those are; or no Trp at 41 in a domain that
        begins after 23), `lengths` (no region is that long or short), `deletion` (what looks like FWR1 is
        numbered as what follows it), or `framework4` (no Trp or Phe at 118, and residues that look like FWR4
        elsewhere, because CDR3 is very long, or almost absent).
    """
    inside = np.flatnonzero(positions)
    numbers = positions[inside]
    if not len(inside) or np.any(np.diff(numbers) < 0):
        return "order"
    at = {int(number): residues[place] for place, number in zip(inside.tolist(), numbers.tolist(), strict=True)}
    begins_late = numbers[0] > _CYSTEINES[0]
    if any(at.get(place, "C") != "C" for place in _CYSTEINES) or (begins_late and at.get(_TRYPTOPHAN, "W") != "W"):
        return "anchors"
    for region, first, last in REGION_SPANS:
        size = int(np.count_nonzero((numbers >= first) & (numbers <= last)))
        whole = numbers[0] < first and numbers[-1] > last
        fewest, most = _CDR3_ROOM if region is Region.CDR3 else _ROOM.get(region, (0, len(residues)))
        if size > most or (whole and size < fewest):
            return "lengths"
    if begins_late and _FRAMEWORK1.match(residues, int(inside[0])):
        return "deletion"
    if numbers[-1] >= _FRAMEWORK3_FIRST:
        places = inside.tolist()
        begin = places[int(np.searchsorted(numbers, _FRAMEWORK3_FIRST))] + _FRAMEWORK4_AFTER
        place = places[int(np.searchsorted(numbers, _FRAMEWORK4_FIRST))] if _FRAMEWORK4_FIRST in at else len(residues)
        begins_right = residues[place : place + 1] in ("F", "W") and residues[place + 1 : place + 2] in ("G", "")
        if not begins_right and _FRAMEWORK4.search(residues, begin):
            return "framework4"
    return ""


def cdr3_is_the_junctions(evidence: Evidence) -> bool | None:
    """Whether the stated CDR3 is the stated junction without its two anchors; None if one of them is not stated.

    Nucleotides are compared where there are any: only they decide where a boundary cuts a codon.
    """
    junction, cdr3_bases = _ungapped(evidence.junction), _ungapped("".join(evidence.region_bases[_CDR3:][:1]))
    if junction and cdr3_bases:
        return junction[3:-3] == cdr3_bases
    junction_residues = translate(junction) if junction and len(junction) % 3 == 0 else evidence.junction_residues
    cdr3 = _ungapped("".join(evidence.region_residues[_CDR3:][:1])) or translate(cdr3_bases)
    return junction_residues[1:-1] == cdr3 if junction_residues and cdr3 else None


def definition_fault(residues: str, regions: npt.NDArray[np.int8], evidence: Evidence) -> str:
    """Why stated regions are not IMGT's; empty if nothing contradicts them.

    CDR3 must be the junction without its two anchors. Where none is stated, Cys 104 may only be last in FWR3; and Cys
    23 may only be fourth from the end of FWR1: in light chains, Kabat's CDR3 is IMGT's, but Kabat's CDR1 is not.
    """
    letters = np.frombuffer(residues.encode("latin-1", errors="replace"), np.uint8)
    framework1, framework3, cdr3 = (
        letters[regions == region].tobytes().decode("latin-1") for region in (Region.FWR1, Region.FWR3, Region.CDR3)
    )
    agrees = cdr3_is_the_junctions(evidence)
    misplaced = framework3 and framework3[-1] != "C" and ("C" in framework3[-4:] or cdr3.startswith("C"))
    if agrees is False or (agrees is None and misplaced):
        return "definition"
    if len(framework1) >= 4 and framework1[-4] != "C" and "C" in framework1[-9:]:
        return "definition"
    return ""


def _ungapped(text: str) -> str:
    return text.replace("-", "").replace(".", "")
