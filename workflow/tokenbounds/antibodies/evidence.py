"""What a row says about the regions and the germline of its residues."""

from __future__ import annotations

from dataclasses import dataclass

from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.translation import Translation


@dataclass(frozen=True)
class Evidence:
    """What a row says about its residues, in upper case; empty where it says nothing.

    Attributes
    ----------
    region_residues, region_bases
        Sequences of FWR1, CDR1 … FWR4 as amino acids or as nucleotides; gaps allowed.
    alignment
        The translation of the aligned nucleotides, if the residues are that translation.
    bases, germline_bases
        The aligned nucleotides and the germline's, column by column.
    aligned_residues, germline_residues
        The same in amino acids.
    junction
        Nucleotides from Cys 104 to Trp or Phe 118.
    junction_residues
        The same in amino acids.
    imgt
        IMGT positions of the residues, if the row numbers them.
    numbered_chain
        The chain that it numbers them as.
    """

    region_residues: tuple[str, ...] = ()
    region_bases: tuple[str, ...] = ()
    alignment: Translation | None = None
    bases: str = ""
    germline_bases: str = ""
    aligned_residues: str = ""
    germline_residues: str = ""
    junction: str = ""
    junction_residues: str = ""
    imgt: tuple[int, ...] = ()
    numbered_chain: Chain = Chain.NONE


NO_EVIDENCE = Evidence()
