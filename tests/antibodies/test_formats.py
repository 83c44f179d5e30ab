"""OAS units, FASTA and tables; and for every format: no residue is lost on the way into shards and annotations."""

import gzip

import numpy as np
import pytest
from antibody_files import LIGHT, RESIDUES, rearrangement, write_oas, write_table
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.antibodies.documents import read_antibodies
from tokenbounds.antibodies.labels import Chain, TokenLabels
from tokenbounds.antibodies.readers.cells import is_missing
from tokenbounds.antibodies.vocabulary import AMINO_ACIDS, decode_ids
from tokenbounds.config import (
    AirrSource,
    AntibodyTokenizer,
    CorpusSpec,
    CsvSource,
    FamilyLayout,
    FastaSource,
    OasSource,
)
from tokenbounds.corpus.annotations import Annotations
from tokenbounds.corpus.shards import Corpus, tokenize_corpus
from tokenbounds.errors import CorpusError

ANARCI = {
    "fwh1": dict(zip([f"{n} " for n in range(1, 27) if n != 10], RESIDUES[:25], strict=True)),
    "cdrh1": dict(zip([f"{n} " for n in (27, 28, 29, 30, 35, 36, 37, 38)], RESIDUES[25:33], strict=True)),
    "fwh2": dict(zip([f"{n} " for n in range(39, 56)], RESIDUES[33:50], strict=True)),
}


def read(source, path, counts=None):
    return list(read_antibodies(source, [path], counts or ReadingCounts()))


def oas(path, **settings):
    return OasSource(kind="oas", paths=(str(path),), **{"regions": ("columns",), **settings})


def fasta(path, **settings):
    return FastaSource(kind="fasta", paths=(str(path),), **{"regions": (), **settings})


def table(path, **settings):
    return CsvSource(kind="csv", paths=(str(path),), **{"regions": (), **settings})


def test_unpaired_units_have_a_donor_and_stated_positions(tmp_path):
    rows = [
        {"locus": "H", "productive": "T", "sequence_alignment_aa": RESIDUES, "v_call": "IGHV3-11*05,IGHV3-11*06",
         "ANARCI_numbering": str(ANARCI)},
        {"locus": "L", "productive": "T", "sequence_alignment_aa": LIGHT, "v_call": "IGKV1-39*01",
         "ANARCI_numbering": "?"},
    ]  # fmt: skip
    heavy, light = read(oas(tmp_path), write_oas(tmp_path / "unit.csv.gz", rows))
    assert heavy.donor == "Donor-1" and heavy.name.endswith("unit.csv.gz:3")
    assert heavy.chains[0].labels.imgt[[0, 9, 10, 49, 50]].tolist() == [1, 11, 12, 55, 0]
    assert heavy.chains[0].labels.region[[0, 25, 33, 49, 50]].tolist() == [1, 2, 3, 3, 0]
    assert heavy.chains[0].v_genes == {"IGHV3-11"} and heavy.chains[0].regions_from == "numbering"
    assert light.chains[0].chain is Chain.LIGHT and light.chains[0].regions_from == "none"
    (only,) = read(oas(tmp_path, chains="light"), tmp_path / "unit.csv.gz")
    assert only.chains[0].residues == LIGHT


def test_paired_units(tmp_path):
    row = {"sequence_id_heavy": "h", "productive_heavy": "T", "locus_heavy": "H", "v_call_heavy": "IGHV1",
           "sequence_alignment_aa_heavy": RESIDUES, "productive_light": "T", "v_call_light": "IGKV1",
           "sequence_alignment_aa_light": LIGHT}  # fmt: skip
    rows = [row, {**row, "productive_light": "F"}]
    path = write_oas(tmp_path / "paired.csv.gz", rows, {"Subject": "no"})
    counts = ReadingCounts()
    (pair,) = read(oas(tmp_path, chains="paired"), path, counts)
    assert [chain.residues for chain in pair.chains] == [RESIDUES, LIGHT] and pair.donor == "" and pair.name == "h"
    assert counts.to_dict()["dropped"] == {"unpaired": 1, "unproductive": 1} and counts.get("sequences", "read") == 4
    assert [len(antibody.chains) for antibody in read(oas(tmp_path), path)] == [1, 1]
    assert [antibody.chains[0].chain for antibody in read(oas(tmp_path, chains="heavy"), path)] == [Chain.HEAVY]


@pytest.mark.parametrize(
    ("head", "settings", "message"),
    [
        ("", {}, r"u\.csv does not begin with a line of metadata"),
        ("{}\n", {}, r"no column 'Subject'.*'donor'"),
        ('{"Subject": "a"}\n', {"clone": "family"}, r"no column 'family'.*'clone'"),
        ('{"Subject": "a"}\n', {"chains": "paired"}, r"u\.csv is an unpaired unit.*'chains'"),
    ],
)
def test_faults_of_units(tmp_path, head, settings, message):
    path = write_table(tmp_path / "u.csv", [{"sequence_alignment_aa": RESIDUES, "productive": "T"}], ",", head=head)
    with pytest.raises(CorpusError, match=message):
        read(oas(path, **settings), path)


def test_fasta_headers_name_clone_and_donor(tmp_path):
    path = tmp_path / "a.fasta.gz"
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.write(
            f">Ä1|CLONE=7|donor=Jürgen 2\r\n{RESIDUES[:60].lower()}\r\n\r\n{RESIDUES[60:]}\r\n>s2\n>s3\n\n{LIGHT}"
        )
    counts = ReadingCounts()
    first, second = read(fasta(path, clone="CLONE", donor="donor", chain="heavy"), path, counts)
    assert (first.name, first.clone, first.donor) == ("Ä1", "7", "Jürgen") and first.chains[0].residues == RESIDUES
    assert (second.name, second.clone) == ("s3", "") and second.chains[0].chain is Chain.HEAVY
    assert counts.to_dict()["dropped"] == {"no_sequence": 1} and counts.get("noted", "clone_unstated") == 1
    assert read(fasta(path, clone="@file"), path)[0].clone == "a"


def test_tables_of_pairs(tmp_path):
    rows = [{"VH": RESIDUES, "VL": LIGHT, "id": "x"}, {"VH": RESIDUES, "VL": " ", "id": "y"}]
    path = write_table(tmp_path / "t.csv", rows, ",")
    counts = ReadingCounts()
    (pair,) = read(table(path, heavy="VH", light="VL", name="id"), path, counts)
    assert [(chain.chain, chain.residues) for chain in pair.chains] == [(Chain.HEAVY, RESIDUES), (Chain.LIGHT, LIGHT)]
    assert counts.to_dict()["dropped"] == {"no_sequence": 1, "unpaired": 1}
    assert [antibody.name for antibody in read(table(path, light="VL", name="id"), path)] == ["x"]
    with pytest.raises(CorpusError, match=r"t\.csv has no column 'heavy' \(it has: VH, VL, id\)"):
        read(table(path, heavy="heavy"), path)


def test_nucleotides_are_translated_when_asked_and_refused_when_not(tmp_path):
    path = write_table(tmp_path / "t.csv", [{"s": "gaagtt" * 12 + "g"}], ",")
    counts = ReadingCounts()
    (found,) = read(table(path, heavy="s", molecule="nucleotides"), path, counts)
    assert found.chains[0].residues == "EV" * 12 and counts.get("changed", "translated") == 1
    with pytest.raises(CorpusError, match=r"t\.csv:2, column 's' looks like nucleotides.*molecule"):
        read(table(path, heavy="s"), path)
    path = write_table(tmp_path / "u.csv", [{"s": RESIDUES}], ",")
    with pytest.raises(CorpusError, match=r"u\.csv:2, column 's': 'Q' is not a nucleotide"):
        read(table(path, heavy="s", molecule="nucleotides"), path)


# --- no residue is lost ----------------------------------------------------------------------------------------------


def write_format(kind, folder, sequences, newline, header):
    """Write sequences in a format; return the source that reads them."""
    if kind == "airr":
        rows = [
            rearrangement(sequence_id=header, sequence_alignment_aa=text, sequence_alignment="") for text in sequences
        ]
        path = write_table(folder / "x.tsv.gz", rows, newline=newline)
        return AirrSource(kind="airr", paths=(str(path),), clone="clone_id", regions=("columns",))
    if kind == "oas":
        rows = [{"sequence_alignment_aa": text, "productive": "T", "clone": "1", "note": header} for text in sequences]
        return oas(write_oas(folder / "x.csv.gz", rows, newline=newline), clone="clone")
    if kind == "csv":
        rows = [{"name": header, "heavy": text, "clone": "1"} for text in sequences]
        return table(write_table(folder / "x.csv", rows, ",", newline), heavy="heavy", name="name", clone="clone")
    folder.mkdir(exist_ok=True)
    with (folder / "x.fasta").open("w", newline="", encoding="utf-8") as stream:
        for text in sequences:
            width = 7 if len(text) < 1000 else len(text)
            lines = [text[start : start + width] for start in range(0, len(text), width)]
            stream.write(newline.join([f">{header}|clone=1", *lines, ""]))
    return fasta(folder / "x.fasta", clone="clone")


def through_the_corpus(source, folder):
    """The members of each document as a model reads them, from shards and annotations alone."""
    spec = CorpusSpec(source=source, tokenizer=AntibodyTokenizer(kind="antibody"), shards=2)
    tokenize_corpus(spec, "c", folder / "c")
    corpus = Corpus.open(folder / "c", verify=True)
    annotations = Annotations.open(folder / "c", corpus)
    documents = []
    for number in range(corpus.documents):
        ids, labels = corpus.document(number), TokenLabels(**annotations.document(number))
        assert len(ids) == len(labels.region) and set(labels.region.tolist()) <= set(range(8))
        pieces = [decode_ids(ids[labels.member == member]) for member in range(labels.member.max() + 1)]
        assert "".join(pieces) == decode_ids(ids) and all(piece.endswith("[ClSep]") for piece in pieces)
        documents.append([piece.removesuffix("[ClSep]") for piece in pieces])
    return documents, corpus.manifest.reading


written = st.lists(st.text(AMINO_ACIDS + AMINO_ACIDS.lower() + "-.", max_size=40), min_size=1, max_size=6)
headers = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=">|;="), min_size=1, max_size=8)


@pytest.mark.parametrize("kind", ["airr", "oas", "fasta", "csv"])
@settings(max_examples=12, deadline=None)
@given(
    sequences=written, newline=st.sampled_from(["\n", "\r\n"]), header=headers, family=st.booleans(), keep=st.booleans()
)
def test_no_residue_is_lost(tmp_path_factory, kind, sequences, newline, header, family, keep):
    folder = tmp_path_factory.mktemp("lossless")
    source = write_format(kind, folder, sequences, newline, header)
    layout = {"layout": FamilyLayout(kind="family", max_tokens=60)} if family else {}
    source = type(source)(**{**vars(source), **layout, "keep": {"gaps": keep}})
    assume(not any(is_missing(text) and text for text in sequences))  # "NaN" is not a peptide
    upper = [text.upper().replace(".", "-") for text in sequences]
    expected = dict.fromkeys(text if keep else text.replace("-", "") for text in upper if text.strip("-"))
    if not expected:
        with pytest.raises(CorpusError, match="empty"):
            through_the_corpus(source, folder)
        return
    documents, reading = through_the_corpus(source, folder)
    members = [member for document in documents for member in document]
    assert sorted(members) == sorted(expected) if family else members == list(expected)
    assert reading["sequences"]["read"] == len(sequences)
    assert len(sequences) == reading["sequences"]["kept"] + sum(reading.get("dropped", {}).values())
    assert sum(reading["residues"].values()) == sum(len(text.replace("-", "")) for text in expected)


def write_pairs(kind, folder, pairs, newline):
    """Write pairs in a format; return the source that reads them."""
    path = folder / "x"
    if kind == "csv":
        rows = [{"H": heavy, "L": light} for heavy, light in pairs]
        return table(write_table(path, rows, ",", newline), heavy="H", light="L")
    if kind == "oas":
        rows = [
            {"productive_heavy": "T", "v_call_heavy": "IGHV1-2*02", "sequence_alignment_aa_heavy": heavy,
             "productive_light": "T", "v_call_light": "IGKV1-5*03", "sequence_alignment_aa_light": light}
            for heavy, light in pairs
        ]  # fmt: skip
        return oas(write_oas(path, rows, newline=newline), chains="paired")
    rows = [
        {"cell_id": f"c{number}", "locus": locus, "productive": "T", "sequence_alignment_aa": text}
        for number, pair in enumerate(pairs)
        for locus, text in zip(("IGL", "IGH"), pair[::-1], strict=True)
    ]
    return AirrSource(kind="airr", paths=(str(write_table(path, rows, newline=newline)),), chains="paired", regions=())


chain_text = st.text(AMINO_ACIDS + AMINO_ACIDS.lower() + "-.", max_size=30)


@pytest.mark.parametrize("kind", ["airr", "oas", "csv"])
@settings(max_examples=8, deadline=None)
@given(
    pairs=st.lists(st.tuples(chain_text, chain_text), min_size=1, max_size=5), newline=st.sampled_from(["\n", "\r\n"])
)
def test_no_residue_of_a_pair_is_lost(tmp_path_factory, kind, pairs, newline):
    folder = tmp_path_factory.mktemp("pairs")
    source = write_pairs(kind, folder, pairs, newline)
    assume(not any(is_missing(text) and text for pair in pairs for text in pair))
    bare = [tuple(text.upper().replace("-", "").replace(".", "") for text in pair) for pair in pairs]
    expected = [f"[AbHC]{heavy}[AbLC]{light}" for heavy, light in dict.fromkeys(bare) if heavy and light]
    if not expected:
        with pytest.raises(CorpusError, match="empty"):
            through_the_corpus(source, folder)
        return
    documents, reading = through_the_corpus(source, folder)
    assert sorted(member for document in documents for member in document) == sorted(expected)
    assert reading["sequences"]["read"] == 2 * len(pairs)
    assert 2 * len(pairs) == reading["sequences"]["kept"] + sum(reading.get("dropped", {}).values())


@pytest.mark.parametrize("kind", ["airr", "oas", "fasta", "csv"])
def test_lines_of_a_hundred_thousand_residues(tmp_path, kind):
    letters = "".join(np.random.default_rng(0).choice(list(AMINO_ACIDS), 100_000))
    documents, _ = through_the_corpus(write_format(kind, tmp_path, [letters, "QV"], "\r\n", "Müller α"), tmp_path)
    assert documents == [[letters], ["QV"]]


def test_a_reader_that_loses_a_residue_is_caught(tmp_path, monkeypatch):
    source = write_format("csv", tmp_path, [RESIDUES], "\n", "n")
    monkeypatch.setattr(
        "tokenbounds.corpus.tokenizers.vocabulary.encode_text", lambda text: np.zeros(len(RESIDUES), np.uint8)
    )
    with pytest.raises(CorpusError, match=r"\d+ labels and \d+ tokens"):
        through_the_corpus(source, tmp_path)
