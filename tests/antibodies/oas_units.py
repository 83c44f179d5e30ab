"""Data units as the Observed Antibody Space publishes them: its metadata, all its columns, its ways of writing."""

from __future__ import annotations

from typing import Any

from antibody_files import LIGHT, REGIONS
from tokenbounds.antibodies.translation import reverse_complement, translate

METADATA: dict[str, Any] = {
    **{"Run": "ERR0000001", "Link": "https://doi.org/10.1000/made.up", "Author": "Nobody et al., 2020"},
    **{"Species": "human", "Age": "no", "BSource": "PBMC", "BType": "Memory-B-Cells", "Vaccine": "None"},
    **{"Disease": "None", "Subject": "Donor-7", "Longitudinal": "no", "Unique sequences": 3, "Isotype": "IGHG"},
    "Chain": "Heavy",
}
_GENES = ("v", "d", "j")
_SIDES = ("start", "end")
_READ = ("fwr1", "cdr1", "fwr2", "cdr2", "fwr3", "fwr4", "cdr3")
COLUMNS = (
    *("sequence", "locus", "stop_codon", "vj_in_frame", "v_frameshift", "productive", "rev_comp", "complete_vdj"),
    *(f"{gene}_call" for gene in _GENES),
    *(f"{of}_alignment{aa}" for aa in ("", "_aa") for of in ("sequence", "germline")),
    *(f"{gene}_alignment_{side}" for gene in _GENES for side in _SIDES),
    *(f"{gene}_{of}_alignment{aa}" for gene in _GENES for of in ("sequence", "germline") for aa in ("", "_aa")),
    *(f"{region}{aa}" for region in _READ for aa in ("", "_aa")),
    *("junction", "junction_length", "junction_aa", "junction_aa_length"),
    *(f"{gene}_{what}" for what in ("score", "cigar", "support", "identity") for gene in _GENES),
    *(f"{gene}_{of}_{side}" for gene in _GENES for of in ("sequence", "germline") for side in _SIDES),
    *(f"{region}_{side}" for region in _READ for side in _SIDES),
    *("np1", "np1_length", "np2", "np2_length", "c_region", "Redundancy", "ANARCI_numbering", "ANARCI_status"),
)

# A CDR3 of 15 residues: IMGT inserts one after 111, one before 112.
CDR3 = "GCGAGAGTCAAGCGAAGAGGTTGGTTCGCCGACTACTACGGCATG"
CDR3_POSITIONS = ("105", "106", "107", "108", "109", "110", "111", "111A", "112A", "112", *map(str, range(113, 118)))
ABSENT = 14  # residues of FWR1 that the primer covers
N_ADDITION = slice(6, 15)  # nucleotides of CDR3 that no gene wrote
MUTATED = 70  # the codon of the read that is not germline's


def heavy_row(**changes: Any) -> dict[str, Any]:
    """A read that begins in FWR1, annotated by an IgBLAST that states no FWR4, numbered by ANARCI."""
    parts = {name: text.replace(".", "") for name, text in REGIONS.items()}
    parts |= {"fwr1": parts["fwr1"][3 * ABSENT :], "cdr3": CDR3}
    bases = "".join(parts.values())
    before_cdr3 = len(bases) - len(parts["fwr4"]) - len(CDR3)
    germline = list(bases)
    germline[3 * MUTATED : 3 * MUTATED + 3] = "TAA" if bases[3 * MUTATED : 3 * MUTATED + 3] == "TGG" else "TGG"
    germline[before_cdr3 + N_ADDITION.start : before_cdr3 + N_ADDITION.stop] = "N" * 9
    read = "ACGATTGCA" + bases + "GCCTCCACCAAGG"
    row = dict.fromkeys(COLUMNS, "")
    row |= {
        **{"sequence": reverse_complement(read), "locus": "H", "stop_codon": "F", "vj_in_frame": "T"},
        **{"v_frameshift": "F", "productive": "T", "rev_comp": "T", "complete_vdj": "F"},
        **{"v_call": "IGHV3-11*05,IGHV3-11*06", "d_call": "IGHD3-10*01", "j_call": "IGHJ4*02"},
        **{"sequence_alignment": bases, "germline_alignment": "".join(germline)},
        **{"sequence_alignment_aa": translate(bases), "germline_alignment_aa": translate("".join(germline))},
        **{"junction": "TGT" + CDR3 + "TGG", "junction_aa": translate("TGT" + CDR3 + "TGG")},
        **{"junction_length": "51.0", "junction_aa_length": "17.0", "d_alignment_start": "", "v_support": "1.2e-99"},
        **{"np1": bases[N_ADDITION], "np1_length": "9.0", "Redundancy": "2"},
        "ANARCI_numbering": str(_numbering("h", _heavy_positions(parts))),
        "ANARCI_status": "|Deletions: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 73||Shorter than IMGT: fw1|",
    }
    for name in ("fwr1", "cdr1", "fwr2", "cdr2", "fwr3", "cdr3"):
        row |= {name: parts[name], f"{name}_aa": translate(parts[name])}
    return {**row, **changes}


def light_row(**changes: Any) -> dict[str, Any]:
    """A kappa chain that is germline throughout."""
    positions = [*range(1, 30), 36, 37, 38, *range(39, 58), 65, *(p for p in range(66, 105) if p not in (73, 81, 82))]
    positions += [105, 106, 107, 108, 109, 114, 115, 116, 117, *range(118, 128)]
    row = dict.fromkeys(COLUMNS, "")
    row |= {
        **{"locus": "K", "stop_codon": "F", "vj_in_frame": "T", "productive": "T", "rev_comp": "F"},
        **{"v_call": "IGKV1-39*01", "j_call": "IGKJ1*01", "junction_aa": "CQQHYTTPPTF"},
        **{"sequence_alignment_aa": LIGHT, "germline_alignment_aa": LIGHT, "Redundancy": "1"},
        "ANARCI_numbering": str(_numbering("k", list(zip(map(str, positions), LIGHT, strict=True)))),
        "ANARCI_status": "|||||",
    }
    return {**row, **changes}


def paired_row(heavy: dict[str, Any], light: dict[str, Any]) -> dict[str, Any]:
    """The same as one row of a paired unit; redundancy is not stated there."""
    row: dict[str, Any] = {}
    for suffix, chain in (("heavy", heavy), ("light", light)):
        row[f"sequence_id_{suffix}"] = f"AAACCTG-1_contig_{suffix}"
        row |= {f"{name}_{suffix}": value for name, value in chain.items() if name != "Redundancy"}
    return row


def _heavy_positions(parts: dict[str, str]) -> list[tuple[str, str]]:
    """ANARCI's name of each residue's position, and the residue."""
    gapped = "".join(REGIONS[name] for name in ("fwr1", "cdr1", "fwr2", "cdr2", "fwr3"))
    framework = [str(at // 3 + 1) for at in range(0, len(gapped), 3) if gapped[at] != "."][ABSENT:]
    names = [*framework, *CDR3_POSITIONS, *map(str, range(118, 129))]
    return list(zip(names, translate("".join(parts.values())), strict=True))


def _numbering(chain: str, residues: list[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """As ANARCI's output is written in a cell: by region, positions followed by an insertion's letter or a blank."""
    ends = {"fw{}1": 26, "cdr{}1": 38, "fw{}2": 55, "cdr{}2": 65, "fw{}3": 104, "cdr{}3": 117, "fw{}4": 128}
    found: dict[str, dict[str, str]] = {name.format(chain): {} for name in ends}
    for name, residue in residues:
        number = int(name.rstrip("AB"))
        region = next(key for key, last in ends.items() if number <= last)
        found[region.format(chain)][name if name[-1].isalpha() else f"{name} "] = residue
    return found
