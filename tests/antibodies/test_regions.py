"""Regions rejoin to the sequence, whatever its parts; positions follow IMGT; immunum agrees with the alignment."""

import numpy as np
import pytest
from antibody_files import ALIGNMENT, JUNCTION, LIGHT, REGIONS, RESIDUES
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.evidence import Evidence
from tokenbounds.antibodies.labelling import label_antibody
from tokenbounds.antibodies.labels import REGION_SPANS, Chain, Region, regions_of_positions
from tokenbounds.antibodies.records import Antibody, ChainRecord
from tokenbounds.antibodies.regions import cdr3_positions, positions_from_alignment
from tokenbounds.antibodies.translation import translate, translate_alignment
from tokenbounds.antibodies.vocabulary import AMINO_ACIDS

CODONS = {}
for _codon in (a + b + c for a in "TCAG" for b in "TCAG" for c in "TCAG"):
    CODONS.setdefault(translate(_codon), []).append(_codon)

residues = st.text(AMINO_ACIDS, max_size=8)
some_residues = st.text(AMINO_ACIDS, min_size=1, max_size=8)


def label(text, methods=("columns", "alignment"), **evidence):
    antibody = Antibody("n", "w", (ChainRecord(text, Chain.NONE, evidence=Evidence(**evidence)),))
    labelled = label_antibody(antibody, methods, ReadingCounts())
    assert labelled is not None
    return labelled.chains[0]


def with_anchors(parts):
    """Regions with Cys 23 fourth from the end of FWR1, if that is so long, and Cys 104 at the end of FWR3."""
    framework1 = parts[0][:-4] + "C" + parts[0][-3:] if len(parts[0]) >= 4 else parts[0]
    return (framework1, *parts[1:4], parts[4][:-1] + "C", *parts[5:])


def runs(chain):
    """Region and residues of each stretch of equal regions, in order."""
    found = []
    for letter, region in zip(chain.residues, chain.labels.region.tolist(), strict=True):
        if found and found[-1][0] == region:
            found[-1][1] += letter
        else:
            found.append([region, letter])
    return [(Region(region), text) for region, text in found]


@given(residues, st.tuples(residues, *[some_residues] * 5, residues), residues, st.booleans(), st.randoms())
def test_regions_of_columns_rejoin_to_the_sequence(before, parts, after, as_bases, random):
    parts = with_anchors(parts)
    text = before + "".join(parts) + after
    assume(text.find("".join(parts)) == len(before))
    if as_bases:
        columns = {"region_bases": tuple("".join(random.choice(CODONS[letter]) for letter in part) for part in parts)}
    else:
        columns = {"region_residues": parts}
    chain = label(text, **columns)
    found = runs(chain)
    assert "".join(piece for _, piece in found) == text and chain.regions_from == "columns"
    labelled = [(region, piece) for region, piece in found if region is not Region.NONE]
    stated = (*parts[:6], parts[6] or after)  # what ends the sequence after CDR3 is FWR4, stated or not
    assert labelled == [(Region(number), part) for number, part in enumerate(stated, start=1) if part]


def test_what_follows_cdr3_is_framework_4_if_it_may_be():
    parts = ("QV", "G", "M", "I", "N", "AR", "")
    for tail, region in (("WGQGTLVTVSS", Region.FWR4), ("WGQGTLVTVSSA", Region.NONE)):
        assert runs(label("QVGMINAR" + tail, region_residues=parts))[-1] == (region, tail)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(1, 103)), st.integers(0, 30), st.integers(0, 11), st.randoms())
def test_regions_of_gapped_alignments_rejoin_to_the_sequence(absent, cdr3, framework4, random):
    positions = [p for p in range(1, 104) if p not in absent]
    letters = [random.choice(AMINO_ACIDS) for _ in range(len(positions) + 1 + cdr3 + 1 + framework4)]
    codons = [random.choice(CODONS[letter]) for letter in letters]
    by_position = dict(zip(positions, codons, strict=False))
    tail = "".join(codons[len(positions) :])
    bases = "".join(by_position.get(p, "...") for p in range(1, 104)) + tail
    junction = tail[: 3 * (cdr3 + 2)]
    chain = label("".join(letters), alignment=translate_alignment(bases), bases=bases, junction=junction)
    assert chain.residues == "".join(letters) == "".join(piece for _, piece in runs(chain))
    assert chain.labels.imgt[: len(positions) + 1].tolist() == [*positions, 104]
    in_cdr3 = chain.labels.region == Region.CDR3
    assert in_cdr3.sum() == cdr3 and (chain.labels.region == Region.FWR4).sum() == min(11, framework4 + 1)
    assert np.array_equal(regions_of_positions(chain.labels.imgt), chain.labels.region)


def test_cdr3_positions_by_hand():
    assert cdr3_positions(0).tolist() == [] and cdr3_positions(1).tolist() == [105]
    assert cdr3_positions(5).tolist() == [105, 106, 107, 116, 117]
    assert cdr3_positions(12).tolist() == [105, 106, 107, 108, 109, 110, 112, 113, 114, 115, 116, 117]
    assert cdr3_positions(13).tolist() == list(range(105, 118))
    assert cdr3_positions(14).tolist() == [*range(105, 112), 112, *range(112, 118)]
    assert cdr3_positions(15).tolist() == [*range(105, 112), 111, 112, *range(112, 118)]


def test_spans_cover_the_domain_once():
    positions = [p for _, first, last in REGION_SPANS for p in range(first, last + 1)]
    assert positions == list(range(1, 129)) and regions_of_positions(np.array([0], np.int16)).tolist() == [0]


@pytest.mark.parametrize(
    "broken",
    [
        {"junction": ""},
        {"junction": JUNCTION[:-1]},
        {"junction": JUNCTION[:-3] + "AAA"},
        {"bases": ALIGNMENT[3:], "alignment": translate_alignment(ALIGNMENT[3:])},
        {"alignment": None},
    ],
)
def test_alignments_that_cannot_be_checked_are_not_used(broken):
    whole = {"alignment": translate_alignment(ALIGNMENT), "bases": ALIGNMENT, "junction": JUNCTION}
    assert positions_from_alignment(Evidence(**whole)) is not None
    assert positions_from_alignment(Evidence(**{**whole, **broken})) is None


def test_translation_by_hand():
    assert translate("ATGTAAGGNNNN") == "M*GX" and translate("CATG", 1) == "M" and translate("TTYAU") == "F"
    cut = translate_alignment("..GGCC...A-GTGG.AC")
    assert cut.residues == "AXW" and cut.columns.tolist() == [3, 9, 12]
    assert translate_alignment("").residues == "" and translate_alignment("......").residues == ""


# --- immunum ----------------------------------------------------------------------------------------------------------


def test_numbering_agrees_with_the_alignment():
    pytest.importorskip("immunum")
    aligned = label(RESIDUES, alignment=translate_alignment(ALIGNMENT), bases=ALIGNMENT, junction=JUNCTION)
    numbered = label(RESIDUES, ("immunum",))
    assert numbered.labels.region.tolist() == aligned.labels.region.tolist()
    assert numbered.labels.imgt.tolist() == aligned.labels.imgt.tolist()
    assert numbered.chain is Chain.HEAVY and numbered.regions_from == "immunum"


def test_numbering_in_a_longer_sequence_and_without_a_domain():
    pytest.importorskip("immunum")
    chain = label("MKH" + LIGHT + "RTVAAP", ("immunum",))
    pieces = runs(chain)
    assert pieces[0][0] is Region.NONE and pieces[-1][0] is Region.NONE and chain.chain is Chain.LIGHT
    assert "".join(piece for _, piece in pieces) == chain.residues and len(pieces) == 9
    for text in ("GS" * 40, "Q", "X" * 120, RESIDUES.replace("C", "X")[:20]):
        assert set(label(text, ("immunum",)).labels.region.tolist()) == {0}


@given(st.integers(31, len(RESIDUES) - 1), st.sampled_from("X-"))
def test_gaps_and_unknown_residues_keep_their_place(place, letter):
    pytest.importorskip("immunum")
    text = RESIDUES[:place] + letter + RESIDUES[place:]
    chain = label(text, ("immunum",))
    assert len(chain.labels) == len(text) == len(chain.residues)
    if letter == "-":
        kept = np.arange(len(text)) != place
        assert chain.labels.region[place] == 0
        assert chain.labels.region[kept].tolist() == label(RESIDUES, ("immunum",)).labels.region.tolist()


def test_regions_of_the_example_are_what_its_columns_say():
    from_columns = label(RESIDUES, region_bases=tuple(REGIONS.values()))
    assert [len(piece) for _, piece in runs(from_columns)] == [25, 8, 17, 8, 38, 9, 11]
