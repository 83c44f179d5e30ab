"""What readers yield: antibodies of one or two chains, each residue labelled."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenbounds.antibodies.evidence import NO_EVIDENCE, Evidence
from tokenbounds.antibodies.labels import Chain, Labels


@dataclass(frozen=True)
class ChainRecord:
    """One variable domain.

    Attributes
    ----------
    residues
        Amino acids, `X` for an ambiguous one (where those are kept) and `-` for a gap (likewise).
    chain
        Heavy or light, or NONE if the source does not say.
    labels
        One for each character of `residues`; nothing is known until `label_antibody` has set them.
    v_genes
        V genes that its V call names, alleles left out; empty if it names none.
    junction_length
        In nucleotides, if known.
    evidence
        What the source says about regions and germline.
    regions_from
        The method that found the regions, or `none`.
    """

    residues: str
    chain: Chain
    labels: Labels = field(default=Labels.nothing(0))
    v_genes: frozenset[str] = frozenset()
    junction_length: int | None = None
    evidence: Evidence = NO_EVIDENCE
    regions_from: str = "none"


@dataclass(frozen=True)
class Antibody:
    """One record of a source: a chain, or a heavy and a light chain in this order.

    Attributes
    ----------
    name
        Identifier in the source, or file and row.
    where
        File and row, for errors and warnings.
    clone, donor
        As the source names them; empty where it does not.
    """

    name: str
    where: str
    chains: tuple[ChainRecord, ...]
    clone: str = ""
    donor: str = ""
