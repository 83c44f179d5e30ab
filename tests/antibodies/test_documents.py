"""Documents of sequences and families, splits that are disjoint by construction, duplicates, clones that look mixed."""

import random

import numpy as np
import pytest
from antibody_files import LIGHT, RESIDUES, rearrangement, write_table
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.documents import antibody_documents, make_document
from tokenbounds.antibodies.labels import Chain, Labels
from tokenbounds.antibodies.records import Antibody, ChainRecord
from tokenbounds.antibodies.selection import short_hash
from tokenbounds.antibodies.spool import Spool
from tokenbounds.antibodies.vocabulary import encode_text
from tokenbounds.config import AirrSource, CsvSource, FamilyLayout, KeepSpec, SplitSpec
from tokenbounds.errors import CorpusError


def members_of(text):
    return text.removesuffix("[ClSep]").split("[ClSep]")


def documents(tmp_path, rows, counts=None, **settings):
    path = write_table(tmp_path / "t.csv", rows, ",")
    source = CsvSource(kind="csv", paths=(str(path),), heavy="s", regions=(), **settings)
    return list(antibody_documents(source, [path], counts or ReadingCounts()))


def clones(*sizes, donors=("d",)):
    """Rows of unlike sequences, in clones of these sizes for every donor."""
    draw = random.Random(0)
    return [
        {"s": "".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=20)), "clone": str(clone), "donor": donor}
        for donor in donors
        for clone, size in enumerate(sizes)
        for number in range(size)
    ]


def family(**settings):
    return {"clone": "clone", "donor": "donor", "layout": FamilyLayout(kind="family", **settings)}


def test_a_sequence_is_a_document_that_ends_with_a_separator(tmp_path):
    (document,) = documents(tmp_path, [{"s": "QVXL"}], keep=KeepSpec(ambiguous=True))
    assert document.text == "QV[UNK]L[ClSep]" and encode_text(document.text).tolist() == [21, 25, 3, 17, 5]
    assert document.labels.chain.tolist() == [1, 1, 1, 1, 0] and document.labels.member.tolist() == [0] * 5


def test_pairs_are_marked_by_chain(tmp_path):
    def chain(text, kind):
        labels = Labels(
            np.full(len(text), 4, np.int8), np.ones(len(text), np.int8), np.arange(len(text), dtype=np.int16)
        )
        return ChainRecord(text, kind, labels)

    pair = Antibody("p", "w", (chain("QV", Chain.HEAVY), chain("DIQ", Chain.LIGHT)))
    document = make_document("p", [pair, pair])
    assert document.text == "[AbHC]QV[AbLC]DIQ[ClSep]" * 2
    labels = document.labels
    assert labels.chain.tolist() == [1, 1, 1, 2, 2, 2, 2, 0] * 2
    assert labels.region.tolist() == [0, 4, 4, 0, 4, 4, 4, 0] * 2
    assert labels.germline.tolist() == [0, 1, 1, 0, 1, 1, 1, 0] * 2
    assert labels.imgt.tolist() == [0, 0, 1, 0, 0, 1, 2, 0] * 2
    assert labels.member.tolist() == [0] * 8 + [1] * 8


def test_families_hold_their_members_in_an_order_that_the_seed_draws(tmp_path):
    rows = clones(12, 3)
    orders = []
    for seed in (0, 0, 1):
        found = documents(tmp_path, rows, **family(seed=seed))
        assert sorted(document.name for document in found) == ["clone d:0", "clone d:1"]
        large = next(document for document in found if document.name == "clone d:0")
        assert large.labels.member.tolist() == [
            n for n, s in enumerate(members_of(large.text)) for _ in range(len(s) + 1)
        ]
        orders.append(members_of(large.text))
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])
    assert sorted(orders[0]) == sorted(row["s"] for row in rows if row["clone"] == "0")


def test_clones_of_two_donors_and_sequences_without_a_clone_stay_apart(tmp_path):
    rows = [
        *clones(2, donors=("a", "b")),
        {"s": "QVQ", "clone": "", "donor": "a"},
        {"s": "EVQ", "clone": "", "donor": "a"},
    ]
    counts = ReadingCounts()
    found = documents(tmp_path, rows, counts, **family())
    assert sorted(len(members_of(document.text)) for document in found) == [1, 1, 2, 2]
    assert counts.get("clones", "clones") == 2 and counts.get("noted", "clone_unstated") == 2


def test_long_families_go_on_in_further_documents(tmp_path):
    rows = clones(9)
    found = documents(tmp_path, rows, **family(max_tokens=64))
    assert all(1 + len(encode_text(document.text)) <= 64 for document in found) and len(found) == 3
    assert sorted(s for d in found for s in members_of(d.text)) == sorted(row["s"] for row in rows)
    assert [d.name for d in found] == [f"clone d:0 part {n + 1}" for n in range(len(found))]
    counts = ReadingCounts()
    (first,) = documents(tmp_path, rows, counts, **family(max_tokens=64, documents_per_clone=1))
    assert first.text == found[0].text
    kept = len(members_of(first.text))
    assert counts.to_dict()["sequences"] == {"kept": kept, "read": 9}
    assert counts.to_dict()["dropped"] == {"beyond_documents_per_clone": 9 - kept}


def test_a_document_may_be_exactly_as_long_as_allowed(tmp_path):
    rows = [{"s": "A" * 6, "clone": "1"}, {"s": "C" * 7, "clone": "1"}]
    counts = ReadingCounts()
    settings = {"clone": "clone", "layout": FamilyLayout(kind="family", max_tokens=8)}
    assert [d.text for d in documents(tmp_path, rows, counts, **settings)] == ["A" * 6 + "[ClSep]"]
    assert counts.to_dict()["dropped"] == {"longer_than_document": 1}


# --- splits -----------------------------------------------------------------------------------------------------------


def split(part, **settings):
    return {"split": SplitSpec(**{"by": "clone", "part": part, "test_fraction": 0.3, **settings})}


@pytest.mark.parametrize("by", ["clone", "donor"])
def test_parts_are_disjoint_and_together_everything(tmp_path, by):
    rows = clones(*[3] * 10, donors=tuple("abcdefgh"))
    repeated = {**rows[0], "clone": "another", "donor": "i"}
    parts = {}
    for part in ("train", "test"):
        counts = ReadingCounts()
        found = documents(tmp_path, [*rows, repeated], counts, **family(), **split(part, by=by))
        parts[part] = {s for document in found for s in members_of(document.text)}
        assert counts.get("sequences", "kept") == len(parts[part])
        assert counts.get("dropped", "in_other_part") == len(rows) - len(parts[part])
        assert counts.get("dropped", "duplicate") == 1
    assert parts["train"] & parts["test"] == set() and parts["train"] | parts["test"] == {row["s"] for row in rows}
    where = {row["s"]: (row["donor"], row["clone"] if by == "clone" else "") for row in rows}
    assert {where[s] for s in parts["train"]} & {where[s] for s in parts["test"]} == set()
    assert 0 < len(parts["test"]) < len(parts["train"]) + len(rows) / 10


def test_a_clone_stays_in_its_part_when_others_come_or_go(tmp_path):
    rows = clones(*[2] * 30)
    everything = {d.text for d in documents(tmp_path, rows, **family(), **split("test"))}
    half = {d.text for d in documents(tmp_path, rows[::-1][:30], **family(), **split("test"))}
    assert {s for t in half for s in members_of(t)} <= {s for t in everything for s in members_of(t)} and half
    other = {d.text for d in documents(tmp_path, rows, **family(), **split("test", seed=1))}
    assert other != everything


def test_hashes_never_change():
    """Parts of a split must be the same in every release, or a held-out corpus would no longer be one."""
    assert short_hash("clone", "0", "clone\0d\x001") == 16178097860557913059


def test_sequences_without_a_donor_are_left_out_of_a_split_by_donor(tmp_path):
    counts = ReadingCounts()
    rows = [{"s": "QVQ", "donor": ""}, {"s": "EVQ", "donor": "NA"}, {"s": "DVQ", "donor": "x"}]
    for part in ("train", "test"):
        documents(tmp_path, rows, counts, donor="donor", **split(part, by="donor"))
    assert counts.to_dict()["dropped"]["donor_unstated"] == 4 and counts.get("sequences", "kept") == 1


# --- clones -----------------------------------------------------------------------------------------------------------


def test_mixed_clones_are_counted_and_named(tmp_path, caplog):
    def row(clone, calls, junction_length, number):
        aligned = RESIDUES[number:]
        return rearrangement(clone_id=clone, v_call=calls, junction_length=junction_length, junction="", locus="IGH",
                             sequence_alignment="", germline_alignment="", sequence_alignment_aa=aligned)  # fmt: skip

    rows = [
        row("fine", "IGHV1-2*01,IGHV1-3*01", 30, 0),
        row("fine", "IGHV1-3*02", 30, 1),
        row("genes", "IGHV1-2*01,IGHV1-3*01", 30, 2),
        row("genes", "IGHV1-3*01", 30, 3),
        row("genes", "IGHV1-2*01", 30, 4),
        row("lengths", "IGHV1-2*01", 30, 5),
        row("lengths", "IGHV1-2*01", 33, 6),
        rearrangement(clone_id="fine", locus="IGK", v_call="IGKV1-5", junction_length=27, junction="",
                      sequence_alignment="", germline_alignment="", sequence_alignment_aa=LIGHT),
    ]  # fmt: skip
    path = write_table(tmp_path / "a.tsv", rows)
    source = AirrSource(kind="airr", paths=(str(path),), clone="clone_id", regions=())
    counts = ReadingCounts()
    assert len(list(antibody_documents(source, [path], counts))) == 8
    found = counts.to_dict()
    assert found["clones"] == {"clones": 3, "mixed_junction_lengths": 1, "mixed_v_genes": 1}
    assert "different V genes" in found["warnings"][0] and "genes (" in found["warnings"][0]
    assert "different junction lengths" in found["warnings"][1] and "a.tsv:8" in found["warnings"][1]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_the_spool_gives_back_what_it_took_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    labels = Labels(np.array([1, 2, 3], np.int8), np.array([0, 1, 3], np.int8), np.array([1, 128, 300], np.int16))
    chain = ChainRecord("QV-", Chain.LIGHT, labels, frozenset({"B", "A"}), 33, regions_from="columns")
    antibody = Antibody("näme\n", "w", (chain, ChainRecord("", Chain.NONE)), "c", "d")
    with Spool() as spool:
        for key in (b"b", b"a", b"b"):
            spool.add(key, antibody)
        groups = dict(spool.groups())
        assert list(groups) == [b"a", b"b"] and len(groups[b"b"]) == 2 and any(tmp_path.iterdir())
    again = groups[b"a"][0]
    assert (again.name, again.where, again.clone, again.donor) == ("näme\n", "w", "c", "d")
    first, second = again.chains
    assert (first.residues, first.chain, first.v_genes, first.junction_length) == ("QV-", Chain.LIGHT, {"A", "B"}, 33)
    assert first.regions_from == "columns" and second.residues == ""
    for name in ("region", "germline", "imgt"):
        assert getattr(first.labels, name).tolist() == getattr(labels, name).tolist()
    assert not any(tmp_path.iterdir())


def test_a_full_disk_is_said_plainly(monkeypatch):
    with Spool() as spool:
        spool._database.execute("PRAGMA max_page_count = 3")
        with pytest.raises(CorpusError, match="TMPDIR"):
            for _ in range(20_000):
                spool.add(b"k", Antibody("n" * 200, "w", ()))
            list(spool.groups())
