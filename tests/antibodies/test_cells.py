"""Words in cells: missing values, names that name nothing, yes and no, kinds of chain; in every reader the same."""

import pytest
from antibody_files import ALIGNMENT, LIGHT, REGIONS, RESIDUES, rearrangement, write_oas, write_table
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.documents import read_antibodies
from tokenbounds.antibodies.labels import Chain
from tokenbounds.antibodies.readers.cells import chain_in, name_in, truth_in, v_genes_in
from tokenbounds.config import AirrSource, CsvSource, FastaSource, KeepSpec, OasSource
from tokenbounds.errors import CorpusError

MISSING = ["nan", "NaN", "NA", "N/A", "#N/A", "None", "null", "NULL", "<NA>", "", " n/a ", "-nan"]


def read(source, *paths):
    counts = ReadingCounts()
    return list(read_antibodies(source, list(paths), counts)), counts


def airr(*paths, **settings):
    return AirrSource(kind="airr", paths=tuple(map(str, paths)), **{"regions": (), **settings})


# --- missing values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", MISSING)
def test_a_missing_value_is_no_peptide_in_any_reader(tmp_path, word):
    rows = [{"VH": RESIDUES, "VL": LIGHT}, {"VH": RESIDUES[1:], "VL": word}]
    path = write_table(tmp_path / "t.csv", rows, ",")
    pairs, counts = read(CsvSource(kind="csv", paths=(str(path),), heavy="VH", light="VL", regions=()), path)
    assert len(pairs) == 1 and counts.to_dict()["dropped"] == {"no_sequence": 1, "unpaired": 1}
    path = write_table(tmp_path / "t.tsv", [rearrangement(sequence_alignment_aa=word, v_germline_start=word)])
    (found,), _ = read(airr(path), path)
    assert found.chains[0].residues == RESIDUES
    path = write_oas(tmp_path / "u.csv", [{"sequence_alignment_aa": word, "productive": "T"}], {"Subject": word})
    _, counts = read(OasSource(kind="oas", paths=(str(path),), regions=()), path)
    assert counts.to_dict()["dropped"] == {"no_sequence": 1}
    (tmp_path / "a.fa").write_text(f">a\n{word}\n>b\n{RESIDUES}\n")
    source = FastaSource(kind="fasta", paths=(str(tmp_path / "a.fa"),), regions=())
    (found,), counts = read(source, tmp_path / "a.fa")
    assert found.name == "b" and counts.to_dict()["dropped"] == {"no_sequence": 1}


def test_a_missing_value_in_columns_of_numbers_and_genes_is_none(tmp_path):
    path = write_table(tmp_path / "t.tsv", [rearrangement(junction_length="nan", v_call="None", productive="NaN")])
    (found,), counts = read(airr(path), path)
    assert found.chains[0].junction_length == 33 and found.chains[0].v_genes == frozenset()
    assert counts.get("noted", "productive_unstated") == 1


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [("12.0", "12"), ("12", "12"), ("12.5", "12.5"), ("-3.00", "-3"), ("v1.0", "v1.0"), ("012", "012"),
     ("Unassigned", ""), ("not_assigned", ""), ("unknown", ""), ("nan", ""), ("-", ""), ("-1", ""),
     ("NA12878", "NA12878")],
)  # fmt: skip
def test_names_by_hand(text, name):
    assert name_in(text) == name


def test_placeholders_are_no_clones_and_numbers_are_one_name(tmp_path):
    clones = ["12", "12.0", "unassigned", "None", "nan"]
    rows = [
        rearrangement(clone_id=clone, sequence_alignment=ALIGNMENT[: -3 * n or None]) for n, clone in enumerate(clones)
    ]
    path = write_table(tmp_path / "t.tsv", rows)
    found, counts = read(airr(path, clone="clone_id"), path)
    assert [each.clone for each in found] == ["12", "12", "", "", ""]
    assert counts.get("clones", "clones") == 1 and counts.get("noted", "clone_unstated") == 3
    assert counts.get("noted", "clone_placeholder") == 1


def test_placeholders_in_fasta_and_metadata_are_none_either(tmp_path):
    (tmp_path / "a.fa").write_text(f">a|clone=unassigned|donor=7.0\n{RESIDUES}\n")
    source = FastaSource(kind="fasta", paths=(str(tmp_path / "a.fa"),), regions=(), clone="clone", donor="donor")
    (found,), counts = read(source, tmp_path / "a.fa")
    assert (found.clone, found.donor) == ("", "7") and counts.get("noted", "clone_placeholder") == 1
    path = write_oas(tmp_path / "u.csv", [{"sequence_alignment_aa": RESIDUES}], {"Subject": "unknown"})
    (found,), _ = read(OasSource(kind="oas", paths=(str(path),), regions=()), path)
    assert found.donor == ""


@pytest.mark.parametrize(("key", "field"), [("clone", "clone"), ("donor", "Subject")])
def test_a_field_that_no_header_has_is_an_error(tmp_path, key, field):
    path = tmp_path / "a.fa"
    path.write_text(f">s0|CLONE=0\n{RESIDUES}\n>s1|CLONE=1\n{LIGHT}\n")
    with pytest.raises(CorpusError, match=rf"a\.fa: no header has the field '{field}'.*are: CLONE.*'{key}'"):
        read(FastaSource(kind="fasta", paths=(str(path),), regions=(), **{key: field}), path)


def test_a_column_that_names_no_clone_at_all_is_a_warning(tmp_path):
    path = write_table(tmp_path / "t.tsv", [rearrangement(clone_id="NA")])
    _, counts = read(airr(path, clone="clone_id"), path)
    assert counts.warnings == ["No sequence states its clone, though the source says where to find it."]


def light(**changes):
    bare = {"locus": "IGK", "v_call": "IGKV1", "sequence_alignment": "", "germline_alignment": "", "junction": ""}
    return rearrangement(**bare, sequence_alignment_aa=LIGHT, **changes)


def test_cells_of_two_files_are_two_cells(tmp_path):
    first = write_table(tmp_path / "a.tsv", [rearrangement(cell_id="AAAC-1"), rearrangement(cell_id="5.0")])
    second = write_table(tmp_path / "b.tsv", [light(cell_id="AAAC-1")])
    pairs, counts = read(airr(first, second, chains="paired"), first, second)
    assert pairs == [] and counts.to_dict()["dropped"] == {"unpaired": 3}
    assert (
        counts.get("noted", "cells_named_in_several_files") == 1
        and "put both chains into one file" in counts.warnings[0]
    )
    path = write_table(tmp_path / "c.tsv", [rearrangement(cell_id="5.0"), light(cell_id="5")])
    assert len(read(airr(path, chains="paired"), path)[0]) == 1


@pytest.mark.parametrize("word", ["nan", "None", "unassigned", ""])
def test_strangers_without_a_cell_are_no_pair(tmp_path, word):
    path = write_table(tmp_path / "a.tsv", [rearrangement(cell_id=word), light(cell_id=word)])
    pairs, counts = read(airr(path, chains="paired"), path)
    assert pairs == [] and counts.to_dict()["dropped"] == {"unpaired": 2}


# --- yes and no -------------------------------------------------------------------------------------------------------

YES = ["T", "true", "1", "1.0", "yes", "Productive", "productive (see comment)", "T|T", "in-frame", "In"]
NO = ["F", "False", "0", "0.0", "N", "no", "unproductive", "non-productive", "F|F", "T|F", "out-of-frame", "Out",
      "stop_codon", "unproductive (see comment)"]  # fmt: skip


@pytest.mark.parametrize("word", YES + NO)
def test_words_for_yes_and_no(tmp_path, word):
    path = write_table(tmp_path / "a.tsv", [rearrangement(productive=word)])
    found, counts = read(airr(path), path)
    assert len(found) == (word in YES) and counts.get("dropped", "unproductive") == (word in NO)
    assert counts.get("noted", "productive_unstated") == 0


def test_an_unknown_word_ends_the_run_with_its_line_unless_it_does_not_matter(tmp_path):
    path = write_table(tmp_path / "a.tsv", [rearrangement(), rearrangement(productive="perhaps")])
    with pytest.raises(CorpusError, match=r"a\.tsv:3, column 'productive': 'perhaps' means neither yes nor no"):
        read(airr(path), path)
    keep = KeepSpec(unproductive=True, duplicates=True)
    assert len(read(airr(path, keep=keep), path)[0]) == 2
    bases = ALIGNMENT.replace(".", "")
    row = rearrangement(sequence_alignment="", sequence=bases, v_sequence_start=1, rev_comp="maybe")
    path = write_table(tmp_path / "b.tsv", [row])
    with pytest.raises(CorpusError, match=r"b\.tsv:2, column 'rev_comp': 'maybe'"):
        read(airr(path), path)


def test_truth_of_nothing_is_none():
    assert truth_in("NA|nan") is None and truth_in("unknown") is None and truth_in("1.0|NA") is True


# --- chains -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "chain"),
    [("IGH", Chain.HEAVY), ("H", Chain.HEAVY), ("heavy", Chain.HEAVY), ("K", Chain.LIGHT), ("lambda", Chain.LIGHT),
     ("HV3-11*01", Chain.HEAVY), ("VK1-39", Chain.LIGHT), ("LV2-14", Chain.LIGHT), ("Homsap IGKV1-5*03 F", Chain.LIGHT),
     ("TRBV20-1", None), ("B", None), ("BV20-1*01", None), ("chr14", Chain.NONE), ("", Chain.NONE)],
)  # fmt: skip
def test_chains_by_hand(text, chain):
    assert chain_in(text) is chain


def test_loci_and_genes_without_prefix_are_understood(tmp_path):
    rows = [
        rearrangement(locus="H", v_call="HV3-11*05,VH3-23"),
        rearrangement(locus="", v_call="V3-11", sequence_alignment=ALIGNMENT[:-3]),
        rearrangement(locus="beta", v_call="BV20-1"),
    ]
    path = write_table(tmp_path / "a.tsv", rows)
    (found,), counts = read(airr(path, chains="heavy"), path)
    assert found.chains[0].v_genes == {["IGHV3-11", "05"][0], "IGHV3-23"}
    assert counts.to_dict()["dropped"] == {"chain_unstated": 1, "no_immunoglobulin": 1}
    assert v_genes_in("IGHV3-11*05") == {"IGHV3-11"}


# --- evidence that is not asked for -----------------------------------------------------------------------------------


def test_cells_of_mere_evidence_do_not_end_the_run(tmp_path):
    parts = ("QVQLVESGGGLVKPGGSLRLSCAAS", "GFTFSDYY", "MSWIRQAPGKGLEWVSY", "ISSSSSYT",
             "NYADSVKGRFTISRDNAKNSLYLQMNSLRAEDTAVYYC", "ARVKRRGWF", "WGQGTLVTVSS")  # fmt: skip
    columns = dict(zip(REGIONS, parts, strict=True))
    path = write_table(tmp_path / "a.tsv", [rearrangement(**columns, junction_length="long")])
    (found,), counts = read(airr(path), path)
    assert found.chains[0].residues == RESIDUES
    assert counts.to_dict()["noted"] == {"evidence_unreadable": 1, "regions_in_amino_acids": 1}
    (found,), _ = read(airr(path, regions=("columns",)), path)
    assert found.chains[0].regions_from == "columns"
    row = rearrangement(sequence_alignment_aa=RESIDUES, sequence_alignment="see text", germline_alignment="0815")
    path = write_table(tmp_path / "b.tsv", [row])
    (found,), counts = read(airr(path), path)
    assert found.chains[0].residues == RESIDUES and counts.get("noted", "evidence_unreadable") == 2
