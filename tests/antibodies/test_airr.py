"""AIRR rearrangement tables: residues, regions and germline by hand, what is left out, errors that name the cell."""

import sys

import numpy as np
import pytest
from antibody_files import ALIGNMENT, JUNCTION, LENGTHS, LIGHT, REGIONS, RESIDUES, rearrangement, write_table
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.documents import read_antibodies
from tokenbounds.antibodies.labels import Chain, Germline, Region
from tokenbounds.antibodies.numbering import _load_annotator
from tokenbounds.config import AirrSource, KeepSpec
from tokenbounds.errors import CorpusError, MissingPackageError


def read(tmp_path, rows, counts=None, name="a.tsv", **settings):
    path = write_table(tmp_path / name, rows, "," if ".csv" in name else "\t")
    source = AirrSource(kind="airr", paths=(str(path),), **{"regions": ("columns", "alignment"), **settings})
    return list(read_antibodies(source, [path], counts or ReadingCounts()))


def one_chain(tmp_path, row, **settings):
    (antibody,) = read(tmp_path, [row], **settings)
    (chain,) = antibody.chains
    return chain


def segments(chain):
    """Residues of each region, in order of the regions."""
    letters = np.array(list(chain.residues))
    return {region.label: "".join(letters[chain.labels.region == region]) for region in Region}


EXPECTED = {
    "none": "",
    "FWR1": "QVQLVESGGGLVKPGGSLRLSCAAS",
    "CDR1": "GFTFSDYY",
    "FWR2": "MSWIRQAPGKGLEWVSY",
    "CDR2": "ISSSSSYT",
    "FWR3": "NYADSVKGRFTISRDNAKNSLYLQMNSLRAEDTAVYYC",
    "CDR3": "ARVKRRGWF",
    "FWR4": "WGQGTLVTVSS",
}


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.csv"])
def test_gapped_alignment_gives_residues_regions_and_positions(tmp_path, name):
    chain = one_chain(tmp_path, rearrangement(), name=name)
    assert chain.residues == RESIDUES and chain.chain is Chain.HEAVY and chain.regions_from == "alignment"
    assert segments(chain) == EXPECTED and {k: len(v) for k, v in EXPECTED.items() if k != "none"} == LENGTHS
    positions = chain.labels.imgt.tolist()
    assert positions[:10] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert positions[25:33] == [27, 28, 29, 30, 35, 36, 37, 38]
    assert positions[96:105] == [105, 106, 107, 108, 109, 114, 115, 116, 117]
    assert positions[105:] == list(range(118, 129)) and positions[95] == 104
    assert (chain.junction_length, chain.v_genes) == (33, {"IGHV3-11"})


@pytest.mark.parametrize("gaps", [True, False])
def test_region_columns_of_nucleotides(tmp_path, gaps):
    columns = {name: bases if gaps else bases.replace(".", "") for name, bases in REGIONS.items()}
    chain = one_chain(tmp_path, rearrangement(junction="", cdr3_aa="ARVKRRGWF", **columns))
    assert segments(chain) == EXPECTED and chain.regions_from == "columns" and not chain.labels.imgt.any()


def test_region_columns_of_amino_acids_inside_a_longer_sequence(tmp_path):
    columns = {f"{name.lower()}_aa": text for name, text in EXPECTED.items() if name != "none"}
    row = {"sequence_id": "s", "locus": "IGH", "productive": "true", "sequence_aa": "MEF" + RESIDUES + "AST", **columns}
    chain = one_chain(tmp_path, row)
    assert segments(chain) == {**EXPECTED, "none": "MEFAST"}
    assert chain.labels.region.tolist()[:4] == [0, 0, 0, 1] and chain.labels.region.tolist()[-4:] == [7, 0, 0, 0]


def test_region_columns_that_do_not_fit_give_way_to_the_alignment(tmp_path):
    columns = {**REGIONS, "cdr2": "ATTAGTAGTAGT"}
    assert one_chain(tmp_path, rearrangement(**columns)).regions_from == "alignment"
    assert segments(one_chain(tmp_path, rearrangement(**columns))) == EXPECTED


def test_alignment_whose_junction_is_elsewhere_is_not_believed(tmp_path):
    chain = one_chain(tmp_path, rearrangement(junction=JUNCTION[3:]))
    assert chain.regions_from == "none" and segments(chain)["none"] == RESIDUES
    shifted = one_chain(tmp_path, rearrangement(sequence_alignment=ALIGNMENT.replace(".", "")))
    assert shifted.residues == RESIDUES and shifted.regions_from == "none"


def test_germline_by_hand(tmp_path):
    germline = list(ALIGNMENT)
    germline[0:3] = "GAG"  # Q → E
    germline[5] = "A"  # GTG → GTA: still V
    cdr3 = ALIGNMENT.index(REGIONS["cdr3"])
    germline[cdr3 + 9 : cdr3 + 18] = "N" * 9
    germline[cdr3 + 20] = "N"  # the third base of GGT: still G
    chain = one_chain(tmp_path, rearrangement(germline_alignment="".join(germline)))
    expected = np.full(len(RESIDUES), Germline.GERMLINE)
    expected[0] = Germline.NON_GERMLINE
    expected[99:102] = Germline.UNTEMPLATED
    assert chain.labels.germline.tolist() == expected.tolist()


def test_germline_of_amino_acid_alignments(tmp_path):
    row = rearrangement(
        sequence_alignment="",
        sequence_alignment_aa="QV-LE",
        germline_alignment="",
        germline_alignment_aa="QAQXE",
        junction="",
    )
    chain = one_chain(tmp_path, row)
    assert chain.residues == "QVLE" and chain.labels.germline.tolist() == [1, 2, 3, 1]
    assert one_chain(tmp_path, {**row, "germline_alignment_aa": "QAQX"}).labels.germline.tolist() == [0, 0, 0, 0]


def test_another_germline_column(tmp_path):
    row = rearrangement(germline_alignment_d_mask="N" * len(ALIGNMENT))
    chain = one_chain(tmp_path, row, germline="germline_alignment_d_mask")
    assert set(chain.labels.germline.tolist()) == {int(Germline.UNTEMPLATED)}
    with pytest.raises(CorpusError, match=r"a\.tsv has no column 'mask'.*'germline'"):
        one_chain(tmp_path, row, germline="mask")


def test_the_read_is_translated_if_there_is_nothing_else(tmp_path):
    bases = "ACCATG" + ALIGNMENT.replace(".", "") + "GCC"
    row = rearrangement(
        sequence_alignment="", germline_alignment="", sequence=bases, v_sequence_start=7, v_germline_start=1
    )
    counts = ReadingCounts()
    (antibody,) = read(tmp_path, [{**row, "j_sequence_end": len(bases) - 3}], counts)
    assert antibody.chains[0].residues == RESIDUES and counts.get("changed", "translated") == 1
    later = {**row, "v_sequence_start": 8, "v_germline_start": 2, "j_sequence_end": len(bases) - 3}
    assert one_chain(tmp_path, later).residues == RESIDUES[1:]
    complement = bases.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    turned = {**row, "sequence": complement, "rev_comp": "T", "j_sequence_end": len(bases) - 3}
    assert one_chain(tmp_path, turned).residues == RESIDUES


def test_everything_left_out_is_counted(tmp_path):
    rows = [
        rearrangement(),
        rearrangement(productive="F"),
        rearrangement(productive="", sequence_alignment=ALIGNMENT[:-3]),
        rearrangement(sequence_alignment=ALIGNMENT.replace("TGGATC", "TAGATC")),
        rearrangement(sequence_alignment=ALIGNMENT.replace("TGGATC", "NNNATC")),
        rearrangement(sequence_alignment=""),
        rearrangement(locus="IGK"),
        rearrangement(locus="TRB"),
        rearrangement(locus="", v_call=""),
        rearrangement(sequence_id="again"),
        rearrangement(sequence_alignment="", sequence_alignment_aa="..-"),
    ]
    counts = ReadingCounts()
    kept = read(tmp_path, rows, counts, chains="heavy")
    assert [antibody.chains[0].residues for antibody in kept] == [RESIDUES, RESIDUES[:-1]]
    assert counts.to_dict()["dropped"] == {
        "ambiguous": 1,
        "chain_unstated": 1,
        "duplicate": 1,
        "empty": 1,
        "no_immunoglobulin": 1,
        "no_sequence": 1,
        "other_chain": 1,
        "stop_codon": 1,
        "unproductive": 1,
    }
    assert counts.get("noted", "productive_unstated") == 1 and counts.get("sequences", "read") == len(rows)


def test_what_is_left_out_by_default_can_be_kept(tmp_path):
    rows = [
        rearrangement(),
        rearrangement(),
        rearrangement(productive="F", sequence_alignment=ALIGNMENT.replace("TGGATC", "TAGNNN")),
        rearrangement(sequence_alignment="", germline_alignment="", sequence_alignment_aa="qv-l.e"),
    ]
    counts = ReadingCounts()
    keep = KeepSpec(unproductive=True, duplicates=True, ambiguous=True, gaps=True)
    texts = [antibody.chains[0].residues for antibody in read(tmp_path, rows, counts, keep=keep)]
    assert texts[:2] == [RESIDUES] * 2 and texts[2] == RESIDUES.replace("MSWIR", "MSXXR") and texts[3] == "QV-L-E"
    assert counts.to_dict()["changed"] == {"ambiguous_residues_unknown": 1, "lower_case": 1, "translated": 3}
    assert "dropped" not in counts.to_dict()


def test_gaps_carry_no_label(tmp_path):
    row = rearrangement(sequence_alignment_aa="-" + RESIDUES[:3] + ".." + RESIDUES[3:] + "-")
    chain = one_chain(tmp_path, row, keep=KeepSpec(gaps=True))
    bare = one_chain(tmp_path, row)
    assert bare.residues == RESIDUES and segments(bare) == EXPECTED
    kept = np.array(list(chain.residues)) != "-"
    assert "".join(np.array(list(chain.residues))[kept]) == RESIDUES
    for name in ("region", "germline", "imgt"):
        values = getattr(chain.labels, name)
        assert values[kept].tolist() == getattr(bare.labels, name).tolist() and not values[~kept].any()


def test_chains_of_cells_are_paired(tmp_path):
    light = {"locus": "IGK", "v_call": "IGKV1", "sequence_alignment": "", "germline_alignment": "", "junction": ""}
    light["sequence_alignment_aa"] = LIGHT
    rows = [
        rearrangement(cell_id="b", **light),
        rearrangement(cell_id="a"),
        rearrangement(cell_id="lonely", sequence_alignment=ALIGNMENT[:-3]),
        rearrangement(cell_id="b", sequence_alignment=ALIGNMENT[:-6], clone_id="7"),
        rearrangement(cell_id="a", **light),
        *[rearrangement(cell_id="crowd", sequence_alignment=ALIGNMENT[: -3 * n]) for n in (3, 4, 5)],
    ]
    counts = ReadingCounts()
    pairs = read(tmp_path, rows, counts, chains="paired", clone="clone_id")
    assert [[chain.residues for chain in pair.chains] for pair in pairs] == [[RESIDUES, LIGHT], [RESIDUES[:-2], LIGHT]]
    assert [pair.chains[0].chain for pair in pairs] == [Chain.HEAVY] * 2 and [pair.clone for pair in pairs] == [
        "1",
        "7",
    ]
    assert segments(pairs[0].chains[0]) == EXPECTED and pairs[0].chains[0].regions_from == "alignment"
    assert counts.to_dict()["dropped"] == {"several_chains_in_cell": 3, "unpaired": 1}


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"sequence_alignment": "ACGZ"}, {}, r"a\.tsv:2, column 'sequence_alignment': 'Z' is not a nucleotide"),
        ({"v_germline_start": "two"}, {}, r"a\.tsv:2, column 'v_germline_start': 'two' is not a whole number"),
        ({"sequence_alignment_aa": "QV1"}, {}, r"a\.tsv:2, column 'sequence_alignment_aa': '1' at residue 3"),
        ({}, {"clone": "family"}, r"a\.tsv has no column 'family' \(it has: sequence_id.*Correct the source's 'clone'"),
        ({}, {"donor": "subject"}, r"no column 'subject'.*'donor'"),
        ({}, {"residues": "aa"}, r"no column 'aa'.*'residues'"),
        ({}, {"chains": "paired"}, r"no column 'cell_id'.*'cell'"),
    ],
)
def test_faults_name_file_row_and_column(tmp_path, change, settings, message):
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, [rearrangement(**change)], **settings)


def test_tables_without_sequences_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"none of the columns sequence_alignment_aa.*'residues'"):
        read(tmp_path, [{"sequence_id": "a", "productive": "T"}])


def test_schema_check(tmp_path):
    pytest.importorskip("airr")
    with pytest.raises(CorpusError, match=r"a\.tsv is not an AIRR rearrangement table.*d_call"):
        read(tmp_path, [rearrangement()], check_schema=True)
    rest = dict.fromkeys(["d_call", "j_call", "junction_aa", "v_cigar", "d_cigar", "j_cigar"], "")
    assert len(read(tmp_path, [rearrangement(**rest)], check_schema=True)) == 1
    with pytest.raises(CorpusError, match=r"a\.tsv:3 breaks the AIRR schema.*rev_comp"):
        read(tmp_path, [rearrangement(**rest), rearrangement(**rest, rev_comp="maybe")], check_schema=True)


@pytest.mark.parametrize(
    ("package", "settings"), [("airr.schema", {"check_schema": True}), ("immunum", {"regions": ("immunum",)})]
)
def test_missing_packages_are_named(tmp_path, monkeypatch, package, settings):
    monkeypatch.setitem(sys.modules, package, None)
    _load_annotator.cache_clear()
    with pytest.raises(MissingPackageError, match="make install-antibodies"):
        read(tmp_path, [rearrangement()], **settings)
