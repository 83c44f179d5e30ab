"""The reading frame of nucleotides, and germline status codon by codon."""

import numpy as np
import pytest
from antibody_files import ALIGNMENT, JUNCTION, RESIDUES, rearrangement, write_table
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.documents import read_antibodies
from tokenbounds.antibodies.evidence import Evidence
from tokenbounds.antibodies.frames import codon_columns, reading_frame
from tokenbounds.antibodies.germline import germline_status
from tokenbounds.antibodies.labels import Germline
from tokenbounds.antibodies.translation import translate
from tokenbounds.config import AirrSource

BASES = ALIGNMENT.replace(".", "")


def read(tmp_path, row):
    counts = ReadingCounts()
    path = write_table(tmp_path / "a.tsv", [rearrangement(**row)])
    found = list(read_antibodies(AirrSource(kind="airr", paths=(str(path),), regions=()), [path], counts))
    return [each.chains[0] for each in found], counts.to_dict().get("dropped", {})


@pytest.mark.parametrize("cut", [0, 1, 2, 60, 61, 62])
@pytest.mark.parametrize(
    "witness",
    [
        {"junction": JUNCTION},
        {"junction": "", "junction_aa": translate(JUNCTION)},
        {"junction": translate(JUNCTION)},
        {"junction": "", "v_germline_start": True},
    ],
)
def test_each_witness_gives_the_frame(tmp_path, cut, witness):
    witness = {**witness, **({"v_germline_start": cut + 1} if "v_germline_start" in witness else {})}
    aligned = {"sequence_alignment": BASES[cut:], "germline_alignment": BASES[cut:]}
    (chain,), _ = read(tmp_path, {**aligned, **witness})
    assert chain.residues == RESIDUES[-(-cut // 3) :]
    assert set(chain.labels.germline.tolist()) == {int(Germline.GERMLINE)}


def test_stated_amino_acids_give_the_frame():
    for cut in range(3):
        frame = reading_frame(BASES[cut:], None, "", ("MEF" + RESIDUES + "AST",))
        assert translate(BASES[cut:], frame) == RESIDUES[-(-cut // 3) :]
    assert reading_frame(BASES, None, "", ("CAR", "", "DIQMTQSPSS")) is None


def test_without_a_witness_the_row_is_dropped_or_read_elsewhere(tmp_path):
    bare = {"sequence_alignment": BASES[1:], "germline_alignment": BASES[1:], "junction": ""}
    assert read(tmp_path, bare) == ([], {"frame_unknown": 1})
    (chain,), _ = read(tmp_path, {**bare, "sequence_aa": "MEF" + RESIDUES})
    assert chain.residues == RESIDUES[1:]  # the alignment's, in the frame of what is stated
    (chain,), _ = read(tmp_path, {**bare, "sequence_alignment": "", "sequence_aa": RESIDUES})
    assert chain.residues == RESIDUES


def test_witnesses_that_contradict_each_other_give_none(tmp_path):
    """A frame shift in V: what precedes it or what follows would be nonsense."""
    shifted = {"sequence_alignment": BASES[:90] + BASES[91:], "germline_alignment": BASES[:90] + BASES[91:]}
    assert read(tmp_path, {**shifted, "v_germline_start": 1}) == ([], {"frame_unknown": 1})
    assert read(tmp_path, {"sequence_alignment": ALIGNMENT[:120] + ALIGNMENT[121:]}) == ([], {"frame_unknown": 1})


def test_reads_have_a_frame_too_or_none(tmp_path):
    read_ = {"sequence_alignment": "", "germline_alignment": "", "sequence": "AC" + BASES[1:], "v_sequence_start": 3}
    (chain,), _ = read(tmp_path, read_)
    assert chain.residues == RESIDUES[1:]
    assert read(tmp_path, {**read_, "junction": ""}) == ([], {"frame_unknown": 1})


# --- germline ---------------------------------------------------------------------------------------------------------

# A deletion after the first base of codon 30 and an insertion after that of codon 60: between them the residues of read
# and germline stand one place apart, while their bases face each other.
DELETED, INSERTED = 3 * 30 + 1, 3 * 60 + 1
READ = BASES[:DELETED] + "---" + BASES[DELETED + 3 : INSERTED] + "GCA" + BASES[INSERTED:]
GERMLINE = BASES[:INSERTED] + "---" + BASES[INSERTED:]
OWN, GERMLINE_RESIDUES = translate(READ.replace("-", "")), RESIDUES


def status(**evidence):
    found = germline_status(OWN, Evidence(**evidence))
    return None if found is None else [np.count_nonzero(found == each) for each in Germline]


def test_codons_are_compared_between_indels_off_codon_boundaries():
    unknown, germline, non_germline, untemplated = status(bases=READ, germline_bases=GERMLINE)
    assert len(OWN) == len(RESIDUES) and non_germline <= 1
    assert (unknown, untemplated) == (1, 2) and germline >= len(OWN) - 4


def test_residues_alone_are_unknown_between_such_indels():
    unknown, germline, non_germline, _ = status(aligned_residues=OWN, germline_residues=GERMLINE_RESIDUES)
    assert unknown >= 27 and non_germline <= 4 and germline >= len(OWN) - unknown - 4
    assert sum(a != b for a, b in zip(OWN, GERMLINE_RESIDUES, strict=True)) >= 25  # what a plain comparison says


def test_bases_that_do_not_give_the_residues_leave_the_status_unknown():
    broken = READ[:20] + "NNNN" + READ[24:]
    assert status(bases=broken, germline_bases=GERMLINE, aligned_residues=OWN, germline_residues=RESIDUES) is None


def test_mutations_are_no_shift():
    mutated = "".join("A" if n % 3 == 0 and letter != "A" else letter for n, letter in enumerate(RESIDUES))
    found = germline_status(mutated, Evidence(aligned_residues=mutated, germline_residues=RESIDUES))
    assert found.tolist() == [Germline.GERMLINE if a == b else Germline.NON_GERMLINE
                              for a, b in zip(mutated, RESIDUES, strict=True)]  # fmt: skip


def test_columns_of_codons_pass_over_gaps():
    assert codon_columns("AC--GTTTA", "TF").tolist() == [[0, 1, 4], [5, 6, 7]]
    assert codon_columns("ACGTTTA", "R").tolist() == [[1, 2, 3]]
    assert codon_columns("ACG", "W") is None and codon_columns("ACG", "") is None
