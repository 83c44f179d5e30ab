"""Units with all that OAS publishes: every residue keeps its region, position and germline status."""

import numpy as np
import pytest
from antibody_files import write_oas
from oas_units import ABSENT, COLUMNS, METADATA, MUTATED, heavy_row, light_row, paired_row
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.documents import read_antibodies
from tokenbounds.antibodies.labels import Chain, Germline, Region
from tokenbounds.config import OasSource

# 11 residues of FWR1 are left of 25; CDR1 8, FWR2 17, CDR2 8, FWR3 38, CDR3 15, FWR4 11.
HEAVY_REGIONS = np.repeat(np.arange(1, 8), [11, 8, 17, 8, 38, 15, 11])
LIGHT_REGIONS = np.repeat(np.arange(1, 8), [26, 6, 17, 3, 36, 9, 10])
RESIDUES = heavy_row()["sequence_alignment_aa"]


def read(path, counts=None, **settings):
    source = OasSource(kind="oas", paths=(str(path),), **{"regions": ("columns",), **settings})
    return list(read_antibodies(source, [path], counts or ReadingCounts()))


def test_the_units_have_the_published_columns():
    assert len(COLUMNS) == len(set(COLUMNS)) == 97
    assert COLUMNS[:3] == ("sequence", "locus", "stop_codon") and COLUMNS[-1] == "ANARCI_status"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_read_of_an_unpaired_unit_keeps_all_labels(tmp_path, newline):
    counts = ReadingCounts()
    (found,) = read(write_oas(tmp_path / "ERR_Heavy_IGHG.csv.gz", [heavy_row()], METADATA, newline), counts)
    (chain,) = found.chains
    assert (chain.residues, chain.chain, found.donor) == (RESIDUES, Chain.HEAVY, "Donor-7")
    assert (chain.v_genes, chain.junction_length, chain.regions_from) == ({"IGHV3-11"}, 51, "numbering")
    assert chain.labels.region.tolist() == HEAVY_REGIONS.tolist()
    assert chain.labels.imgt[[0, 10, 11, -12, -11, -1]].tolist() == [ABSENT + 2, 26, 27, 117, 118, 128]
    assert chain.labels.imgt[82:97].tolist() == [*range(105, 112), 111, 112, *range(112, 118)]
    expected = np.full(len(RESIDUES), Germline.GERMLINE)
    expected[MUTATED] = Germline.NON_GERMLINE
    expected[84:87] = Germline.UNTEMPLATED
    assert chain.labels.germline.tolist() == expected.tolist()
    assert "dropped" not in counts.to_dict()


@pytest.mark.parametrize(
    "numbering",
    [
        "",
        "{}",
        "{'fwh1': {'1 ': 'R'}}",
        "{'fwh1': {'1 ': 'H', '2 ': 'H', '3 ': 'H'}}",
        "{'fwh1': {'x'",
        "[1]",
        "{'a': 3}",
    ],
)
def test_region_columns_serve_where_the_numbering_does_not(tmp_path, numbering):
    """Where it is missing, damaged, another sequence's, or about a part of the residues only."""
    row = heavy_row(ANARCI_numbering=numbering)
    (found,) = read(write_oas(tmp_path / "u.csv.gz", [row], METADATA))
    assert found.chains[0].labels.region.tolist() == HEAVY_REGIONS.tolist()
    assert set(found.chains[0].labels.imgt.tolist()) == {0}


def test_rows_that_are_left_out_are_counted(tmp_path):
    rows = [
        heavy_row(),
        heavy_row(productive="F", stop_codon="T"),
        heavy_row(sequence_alignment_aa="X" + RESIDUES[1:]),
        heavy_row(sequence_alignment_aa=RESIDUES[:40] + "*" + RESIDUES[41:]),
        heavy_row(sequence_alignment_aa="", sequence_alignment=""),
        light_row(),
    ]
    counts = ReadingCounts()
    assert len(read(write_oas(tmp_path / "u.csv.gz", rows, METADATA), counts, chains="heavy")) == 1
    dropped = {"unproductive": 1, "ambiguous": 1, "stop_codon": 1, "no_sequence": 1, "other_chain": 1}
    assert counts.to_dict()["dropped"] == dropped


def test_pairs_keep_the_labels_of_both_chains(tmp_path):
    rows = [paired_row(heavy_row(), light_row()), paired_row(heavy_row(), light_row(productive="F"))]
    path = write_oas(tmp_path / "1279049_Paired_All.csv.gz", rows, {**METADATA, "Chain": "Paired"})
    counts = ReadingCounts()
    (pair,) = read(path, counts, chains="paired")
    assert [chain.chain for chain in pair.chains] == [Chain.HEAVY, Chain.LIGHT]
    for chain, regions in zip(pair.chains, (HEAVY_REGIONS, LIGHT_REGIONS), strict=True):
        assert chain.labels.region.tolist() == regions.tolist()
        assert Region.NONE not in chain.labels.region and 0 not in chain.labels.imgt
        assert Germline.UNKNOWN not in chain.labels.germline
    assert counts.to_dict()["dropped"] == {"unpaired": 1, "unproductive": 1}


def test_its_labels_are_those_that_numbering_would_give(tmp_path):
    pytest.importorskip("immunum")
    path = write_oas(tmp_path / "u.csv.gz", [heavy_row(), light_row()], METADATA)
    for stated, numbered in zip(read(path), read(path, regions=("immunum",)), strict=True):
        assert stated.chains[0].labels.region.tolist() == numbered.chains[0].labels.region.tolist()
        assert stated.chains[0].labels.imgt.tolist() == numbered.chains[0].labels.imgt.tolist()
