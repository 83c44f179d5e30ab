"""Which of a row's numbering, region columns and chain are trusted; what is not trusted is counted and never used."""

import numpy as np
import pytest
from antibody_files import JUNCTION, LIGHT, REGIONS, RESIDUES, rearrangement, write_oas, write_table
from oas_units import METADATA, heavy_row, light_row
from tokenbounds.antibodies.beliefs import numbering_fault
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.documents import read_antibodies
from tokenbounds.antibodies.labels import Chain, Region
from tokenbounds.antibodies.numbering import number_residues
from tokenbounds.antibodies.translation import translate
from tokenbounds.config import AirrSource, CsvSource, FastaSource, OasSource

LIGHT_PARTS = ("DIQMTQSPSSLSASVGDRVTITCRAS", "QDVNTA", "VAWYQQKPGKAPKLLIY", "SAS",
               "FLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYC", "QQHYTTPPT", "FGQGTKVEIK")  # fmt: skip
NAMES = ("fwr1", "cdr1", "fwr2", "cdr2", "fwr3", "cdr3", "fwr4")
LINKER = "GGGGSGGGGSGGGGS"


def read_unit(tmp_path, rows, **settings):
    counts = ReadingCounts()
    path = write_oas(tmp_path / "u.csv.gz", rows, METADATA)
    source = OasSource(kind="oas", paths=(str(path),), **{"regions": ("columns",), **settings})
    return list(read_antibodies(source, [path], counts)), counts.to_dict()


def read_table(tmp_path, rows, **settings):
    counts = ReadingCounts()
    path = write_table(tmp_path / "t.tsv", rows)
    source = AirrSource(kind="airr", paths=(str(path),), **{"regions": ("columns",), **settings})
    return list(read_antibodies(source, [path], counts)), counts.to_dict()


def region(chain, wanted):
    return "".join(np.array(list(chain.residues))[chain.labels.region == wanted])


def shifted(row, by):
    """The row's numbering, every position `by` further on."""
    numbering = {name: dict(items) for name, items in eval(row["ANARCI_numbering"]).items()}
    for name, items in numbering.items():
        numbering[name] = {f"{int(position[:-1]) + by}{position[-1]}": letter for position, letter in items.items()}
    return str(numbering)


# --- stated numbering -------------------------------------------------------------------------------------------------


def test_a_numbering_one_position_too_far_gives_way_to_the_region_columns(tmp_path):
    columns = {f"{name}_aa": part for name, part in zip(NAMES, LIGHT_PARTS, strict=True)}
    row = light_row(**columns)
    (right,), counts = read_unit(tmp_path, [row])
    assert right.chains[0].regions_from == "numbering" and "regions_refused" not in counts
    (found,), counts = read_unit(tmp_path, [{**row, "ANARCI_numbering": shifted(row, 1)}])
    assert region(found.chains[0], Region.CDR3) == "QQHYTTPPT" and found.chains[0].regions_from == "columns"
    assert counts["regions_refused"] == {"numbering_anchors": 1}
    (bare,), counts = read_unit(tmp_path, [light_row(ANARCI_numbering=shifted(row, 1))])
    assert bare.chains[0].regions_from == "none" and counts["regions_refused"] == {"numbering_anchors": 1}


def test_a_shifted_numbering_gives_way_to_immunum(tmp_path):
    pytest.importorskip("immunum")
    row = light_row()
    (found,), counts = read_unit(
        tmp_path, [light_row(ANARCI_numbering=shifted(row, 1))], regions=("columns", "immunum")
    )
    assert found.chains[0].regions_from == "immunum" and region(found.chains[0], Region.CDR3) == "QQHYTTPPT"
    assert counts["regions_refused"] == {"numbering_anchors": 1}


def test_a_numbering_of_another_chain_is_not_believed(tmp_path):
    heavy = heavy_row()
    as_light = heavy["ANARCI_numbering"].replace("'fwh", "'fwk").replace("'cdrh", "'cdrk")
    (found,), counts = read_unit(tmp_path, [heavy_row(ANARCI_numbering=as_light)])
    assert found.chains[0].regions_from == "columns" and counts["regions_refused"] == {"numbering_chain": 1}


def positions(*spans):
    return np.array([p for first, last in spans for p in range(first, last + 1)], np.int16)


WHOLE = ((1, 30), (36, 60), (66, 128))


@pytest.mark.parametrize(
    ("spans", "changes", "fault"),
    [
        (WHOLE, {}, ""),
        (WHOLE, {23: "Y"}, "anchors"),
        (WHOLE, {104: "S"}, "anchors"),
        (((30, 60), (66, 128)), {41: "P"}, "anchors"),
        (((30, 60), (66, 128)), {}, ""),
        (((1, 30), (36, 45), (56, 60), (66, 128)), {}, "lengths"),
        (((1, 30), (36, 60), (66, 80), (100, 128)), {}, "lengths"),
        (((1, 30), (36, 60), (66, 105), (118, 128)), {}, "lengths"),
        (((1, 30), (36, 60), (66, 104), (118, 128)), {}, "lengths"),
        (((1, 30), (36, 60), (66, 107)), {}, ""),
        (((1, 30), (40, 60), (36, 39), (66, 128)), {}, "order"),
        ((), {}, "order"),
    ],
)
def test_faults_of_numberings_by_hand(spans, changes, fault):
    numbers = positions(*spans)
    letters = [changes.get(int(p), {23: "C", 41: "W", 104: "C"}.get(int(p), "A")) for p in numbers]
    assert numbering_fault("".join(letters), numbers) == fault


def test_a_cdr3_of_seventy_residues_is_none():
    numbers = np.concatenate([positions((1, 30), (36, 60), (66, 111)), np.full(70, 111), positions((112, 128))])
    letters = "".join({23: "C", 41: "W", 104: "C"}.get(p, "A") for p in numbers.tolist())
    assert numbering_fault(letters, numbers) == "lengths"


@pytest.mark.parametrize(
    "text",
    [
        LIGHT.replace("QQHYTTPPT", ""),
        LIGHT.replace("QQHYTTPPT", "Q"),
        RESIDUES.replace("VKRRGWF", "GSYDPEWTLKRNHQAVIMYF" * 4),
        RESIDUES[:20] + RESIDUES[60:],
        LIGHT[:60] + LIGHT[88:],
        RESIDUES[:20] + RESIDUES[50:],
        LIGHT[:10] + LIGHT[40:],
    ],
)
def test_what_immunum_gets_wrong_has_no_regions(tmp_path, text):
    pytest.importorskip("immunum")
    (found,), counts = read_table(tmp_path, [{"sequence_aa": text}], regions=("immunum",))
    assert found.chains[0].regions_from == "none" and not found.chains[0].labels.region.any()
    if number_residues(text, Chain.NONE, "w") is not None:
        assert sum(counts["regions_refused"].values()) == 1


def test_more_insertions_than_letters_are_no_number_and_no_crash(tmp_path):
    pytest.importorskip("immunum")
    text = RESIDUES[:54] + "GSTNADEKQR" * 6 + RESIDUES[54:]
    (found,), counts = read_table(tmp_path, [{"sequence_aa": text}], regions=("immunum",))
    assert found.chains[0].regions_from == "none" and counts["regions_refused"] == {"immunum_lengths": 1}


# --- region columns ---------------------------------------------------------------------------------------------------


def definitions(parts, junction):
    """The same chain's regions by others: CDR3 with its anchors, as MiXCR and 10x write it; Kabat; Kabat of kappa."""
    fwr1, cdr1, fwr2, cdr2, fwr3, cdr3, fwr4 = parts
    return {
        "with_anchors": (fwr1, cdr1, fwr2, cdr2, fwr3[:-1], junction, fwr4[1:]),
        "kabat_cdr3": (fwr1, cdr1, fwr2, cdr2, fwr3 + cdr3[:2], cdr3[2:], fwr4),
        "kabat_cdr1": (fwr1[:-3], fwr1[-3:] + cdr1, fwr2, cdr2, fwr3, cdr3, fwr4),
    }


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("definition", ["with_anchors", "kabat_cdr3", "kabat_cdr1"])
def test_regions_of_another_definition_are_not_taken_for_imgts(tmp_path, definition, stated):
    parts = definitions(LIGHT_PARTS, "CQQHYTTPPTF")[definition]
    assert "".join(parts) == LIGHT
    row = {"locus": "IGK", "productive": "T", "sequence_aa": LIGHT, "junction_aa": "CQQHYTTPPTF" if stated else ""}
    right = row | {f"{name}_aa": part for name, part in zip(NAMES, LIGHT_PARTS, strict=True)}
    (found,), counts = read_table(tmp_path, [right])
    assert found.chains[0].regions_from == "columns" and "regions_refused" not in counts
    wrong = row | {f"{name}_aa": part for name, part in zip(NAMES, parts, strict=True)}
    (found,), counts = read_table(tmp_path, [wrong])
    assert found.chains[0].regions_from == "none" and counts["regions_refused"] == {"columns_definition": 1}


def test_the_alignment_serves_where_the_columns_are_of_another_definition(tmp_path):
    wrong = {
        **REGIONS,
        "fwr3": REGIONS["fwr3"][:-3],
        "cdr3": "TGT" + REGIONS["cdr3"] + "TGG",
        "fwr4": REGIONS["fwr4"][3:],
    }
    (found,), counts = read_table(tmp_path, [rearrangement(**wrong)], regions=("columns", "alignment"))
    assert found.chains[0].regions_from == "alignment" and region(found.chains[0], Region.CDR3) == "ARVKRRGWF"
    assert counts["regions_refused"] == {"columns_definition": 1}


def test_a_boundary_within_a_codon_is_no_other_definition(tmp_path):
    """IgBLAST ends CDR3 where J's conserved codon would begin, in frame or not; nucleotides tell, residues do not."""
    cut = {**REGIONS, "cdr3": REGIONS["cdr3"] + "T", "fwr4": REGIONS["fwr4"][1:]}
    (found,), counts = read_table(tmp_path, [rearrangement(junction="TGT" + cut["cdr3"] + "GGG", **cut)])
    assert found.chains[0].regions_from == "columns" and "regions_refused" not in counts


# --- chains -----------------------------------------------------------------------------------------------------------


def test_an_scfv_is_numbered_by_its_stated_chain_and_another_chain_is_left_out(tmp_path):
    pytest.importorskip("immunum")
    scfv = RESIDUES + LINKER + LIGHT
    path = write_table(tmp_path / "t.csv", [{"VH": scfv}, {"VH": LIGHT}], ",")
    counts = ReadingCounts()
    (found,) = read_antibodies(CsvSource(kind="csv", paths=(str(path),), heavy="VH"), [path], counts)
    assert region(found.chains[0], Region.CDR3) == "ARVKRRGWF" and found.chains[0].chain is Chain.HEAVY
    assert not found.chains[0].labels.region[len(RESIDUES) :].any()
    assert counts.to_dict()["dropped"] == {"other_chain": 1} and counts.get("noted", "further_domains") == 1
    lights = list(read_antibodies(CsvSource(kind="csv", paths=(str(path),), light="VH"), [path], ReadingCounts()))
    assert [region(light.chains[0], Region.CDR3) for light in lights] == ["QQHYTTPPT"] * 2


def test_pairs_in_exchanged_columns_and_fasta_of_another_chain_are_left_out(tmp_path):
    pytest.importorskip("immunum")
    path = write_table(tmp_path / "t.csv", [{"VH": LIGHT, "VL": RESIDUES}, {"VH": RESIDUES, "VL": RESIDUES[:-1]}], ",")
    counts = ReadingCounts()
    source = CsvSource(kind="csv", paths=(str(path),), heavy="VH", light="VL")
    assert list(read_antibodies(source, [path], counts)) == []
    assert counts.to_dict()["dropped"] == {"other_chain": 3, "unpaired": 1} and counts.get("sequences", "read") == 4
    (tmp_path / "a.fa").write_text(f">a\n{LIGHT}\n>b\n{RESIDUES}\n")
    counts = ReadingCounts()
    source = FastaSource(kind="fasta", paths=(str(tmp_path / "a.fa"),), chain="heavy")
    assert [found.name for found in read_antibodies(source, [tmp_path / "a.fa"], counts)] == ["b"]
    assert counts.to_dict()["dropped"] == {"other_chain": 1}


def test_a_locus_that_contradicts_its_v_gene_is_left_out(tmp_path):
    found, counts = read_table(tmp_path, [rearrangement(locus="IGK"), rearrangement()])
    assert len(found) == 1 and counts["dropped"] == {"locus_contradicts_v_call": 1}


def test_junctions_in_the_other_molecule_are_understood(tmp_path):
    (found,), _ = read_table(tmp_path, [rearrangement(junction=translate(JUNCTION), **REGIONS)])
    assert found.chains[0].regions_from == "columns" and found.chains[0].junction_length == 33
