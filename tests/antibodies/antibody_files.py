"""Small files of antibody sequences in every format, made up for the tests."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

# One heavy chain with IMGT gaps: FWR1 25 residues, CDR1 8, FWR2 17, CDR2 8, FWR3 38, CDR3 9, FWR4 11.
REGIONS = {
    "fwr1": "CAGGTGCAGCTGGTGGAGTCTGGGGGA...GGCTTGGTCAAGCCTGGAGGGTCCCTGAGACTCTCCTGTGCAGCCTCT",
    "cdr1": "GGATTCACCTTC............AGTGACTACTAC",
    "fwr2": "ATGAGCTGGATCCGCCAGGCTCCAGGGAAGGGGCTGGAGTGGGTTTCATAC",
    "cdr2": "ATTAGTAGTAGT......AGTAGTTACACA",
    "fwr3": "AACTACGCAGACTCTGTGAAG...GGCCGATTCACCATCTCCAGAGACAACGCCAAGAACTCACTGTATCTGCAAATGAACAGCCTGAGAGCCGAGGACACG"
    "GCCGTGTATTACTGT",
    "cdr3": "GCGAGAGTCAAGCGAAGAGGTTGGTTC",
    "fwr4": "TGGGGCCAGGGAACCCTGGTCACCGTCTCCTCA",
}
ALIGNMENT = "".join(REGIONS.values())
JUNCTION = "TGT" + REGIONS["cdr3"] + "TGG"
RESIDUES = (
    "QVQLVESGGGLVKPGGSLRLSCAASGFTFSDYYMSWIRQAPGKGLEWVSYISSSSSYTNYADSVKGRFTISRDNAKNSLYLQMNSLRAEDTAVYYC"
    "ARVKRRGWFWGQGTLVTVSS"
)
LENGTHS = {"FWR1": 25, "CDR1": 8, "FWR2": 17, "CDR2": 8, "FWR3": 38, "CDR3": 9, "FWR4": 11}
LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"


def rearrangement(**changes: Any) -> dict[str, Any]:
    """A productive AIRR row with an IMGT-gapped alignment."""
    row = {
        "sequence_id": "s1",
        "sequence": "",
        "rev_comp": "F",
        "productive": "T",
        "locus": "IGH",
        "v_call": "IGHV3-11*05",
        "sequence_alignment": ALIGNMENT,
        "germline_alignment": ALIGNMENT,
        "junction": JUNCTION,
        "clone_id": "1",
    }
    return {**row, **changes}


def write_table(
    path: Path, rows: list[dict[str, Any]], delimiter: str = "\t", newline: str = "\n", head: str = ""
) -> Path:
    """Write rows as a table, compressed if the name says so; `head` goes before the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding="utf-8") as stream:
        stream.write(head)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(stream, columns, restval="", delimiter=delimiter, lineterminator=newline)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_oas(
    path: Path, rows: list[dict[str, Any]], metadata: dict[str, Any] | None = None, newline: str = "\n"
) -> Path:
    """Write an OAS data unit: metadata as OAS quotes it, header, rows."""
    text = json.dumps({"Run": "SRR1", "Subject": "Donor-1", "Species": "human"} if metadata is None else metadata)
    return write_table(path, rows, ",", newline, head='"' + text.replace('"', '""') + '"' + newline)
