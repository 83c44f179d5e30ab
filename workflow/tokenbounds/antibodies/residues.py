"""Cleaning of sequences: letter case, gaps, ambiguous residues; everything that changes is counted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.vocabulary import AMINO_ACIDS
from tokenbounds.config import KeepSpec
from tokenbounds.errors import CorpusError

UNKNOWN_RESIDUE = "X"
_SHORTEST_SUSPECT = 60
_GAPS = str.maketrans({".": "-"})
_FRAME_SHIFTS = frozenset("_~#")
"""What MiXCR and IMGT write where a codon is incomplete."""
_FOREIGN = re.compile(r"[^A-Z*_~#-]")
_FINAL_STOP = re.compile(r"[*_]+(?=-*$)")
_AMBIGUOUS = re.compile(f"[^{AMINO_ACIDS}-]")
_NO_LETTERS = re.compile(r"[\s.-]+")


@dataclass(frozen=True)
class Cleaned:
    """A sequence that can be read, or why it is left out.

    Attributes
    ----------
    residues
        Amino acids, `X` and `-`; without gaps unless those are kept.
    fault
        Name of the count it is dropped under; empty if it stays.
    """

    residues: str
    fault: str = ""


def clean_residues(raw: str, keep: KeepSpec, where: str, counts: ReadingCounts) -> Cleaned:
    """Bring a sequence of amino acids into the alphabet of the vocabulary.

    A stop at the end, `*` or `_`, is removed; a sequence with one inside, or with a frame shift, is left out.

    Parameters
    ----------
    raw
        The sequence as found.
    keep
        Which irregular sequences stay.
    where
        Place in the source, for errors.
    counts
        Receives what is changed.

    Raises
    ------
    CorpusError
        If it holds characters that no sequence holds, such as digits: most likely the wrong column.
    """
    text = "".join(raw.split())
    upper = text.upper().translate(_GAPS)
    foreign = _FOREIGN.search(upper)
    if foreign:
        raise CorpusError(
            f"{where}: {foreign.group()!r} at residue {foreign.start() + 1} is not an amino acid. Correct it, "
            "or name the column that holds sequences."
        )
    upper, stops = _FINAL_STOP.subn("", upper)
    bare = upper.replace("-", "")
    if not bare:
        return Cleaned("", "empty")
    ambiguous = set(_AMBIGUOUS.findall(upper))
    if ambiguous and not keep.ambiguous:
        shifted = not _FRAME_SHIFTS.isdisjoint(ambiguous)
        return Cleaned("", "stop_codon" if "*" in ambiguous else "frame_shift" if shifted else "ambiguous")
    counts.add("changed", "final_stop_removed", stops)
    if ambiguous:
        counts.add("changed", "ambiguous_residues_unknown")
        upper = _AMBIGUOUS.sub(UNKNOWN_RESIDUE, upper)
        bare = upper.replace("-", "")
    counts.add("changed", "lower_case", int(text != text.upper()))
    if "-" in upper and not keep.gaps:
        counts.add("changed", "gaps_removed")
    return Cleaned(upper if keep.gaps else bare)


def refuse_nucleotides(raw: str, where: str, remedy: str = "Set the source's 'molecule: nucleotides'.") -> None:
    """Refuse a sequence of amino acids that is made of A, C, G, T, U and N, a few ambiguous bases apart.

    Raises
    ------
    CorpusError
        If it has at least 60 letters, at most one in twenty of them another letter.
    """
    letters = _NO_LETTERS.sub("", raw.upper())
    bases = sum(letters.count(base) for base in "ACGTUN")
    if len(letters) >= _SHORTEST_SUSPECT and 20 * bases >= 19 * len(letters):
        raise CorpusError(f"{where} looks like nucleotides. {remedy}")
