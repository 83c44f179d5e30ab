"""Annotations next to the shards: what is written, how outsiders join it to scores, and how damage is found."""

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from antibody_files import RESIDUES, rearrangement, write_table
from tokenbounds.antibodies.labels import Region
from tokenbounds.antibodies.vocabulary import is_amino_acid
from tokenbounds.config import AirrSource, AntibodyTokenizer, ByteTokenizer, CorpusSpec, FamilyLayout, TextSource
from tokenbounds.corpus.annotations import Annotations
from tokenbounds.corpus.shards import Corpus, tokenize_corpus
from tokenbounds.errors import CorpusError

ANTIBODY = AntibodyTokenizer(kind="antibody")
STORED = ("member", "chain", "region", "germline", "imgt")


def make(tmp_path, tokenizer=ANTIBODY, name="c", clones=40):
    rows = [rearrangement(clone_id=str(n), sequence_id=f"s{n}.{m}", sequence_alignment_aa=RESIDUES[m:] + "W" * n)
            for n in range(clones) for m in range(n % 3 + 1)]  # fmt: skip
    path = write_table(tmp_path / f"{name}.tsv", rows)
    source = AirrSource(kind="airr", paths=(str(path),), clone="clone_id", regions=("columns", "alignment"),
                        layout=FamilyLayout(kind="family"))  # fmt: skip
    return tokenize_corpus(CorpusSpec(source=source, tokenizer=tokenizer, shards=3), name, tmp_path / name)


def test_rows_are_tokens_in_corpus_order_and_join_with_scores(tmp_path):
    manifest = make(tmp_path)
    corpus = Corpus.open(tmp_path / "c", verify=True)
    frame = pl.read_parquet(tmp_path / "c" / "annotations.parquet")
    assert frame.height == manifest.tokens and frame.schema.names() == ["document", "position", *STORED]
    scores = pl.DataFrame({
        "document": np.repeat(np.arange(corpus.documents), corpus.lengths),
        "position": np.concatenate([np.arange(n) for n in corpus.lengths]),
        "token": np.concatenate(list(corpus.iterate())).astype(np.int32),
    })  # fmt: skip
    assert frame.select("document", "position").equals(scores.select("document", "position"))
    joined = scores.join(frame, on=["document", "position"], maintain_order="left")
    residue = pl.Series(is_amino_acid(joined["token"].to_numpy()))
    assert residue.sum() == sum(manifest.reading["residues"].values()) == joined.height - (~residue).sum()
    by_region = joined.filter(residue).group_by("region").len()
    declared = json.loads(pq.read_metadata(tmp_path / "c" / "annotations.parquet").metadata[b"labels"])
    names = next(column["categories"] for column in declared if column["name"] == "region")
    assert {names[region]: n for region, n in by_region.iter_rows()} == manifest.reading["residues"]


def test_labels_of_any_tokens_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenbounds.corpus.shards._BATCH_DOCUMENTS", 4)
    make(tmp_path)
    corpus = Corpus.open(tmp_path / "c")
    annotations = Annotations.open(tmp_path / "c", corpus)
    frame = pl.read_parquet(tmp_path / "c" / "annotations.parquet")
    drawn = np.random.default_rng(0).permutation(frame.height)[:500]
    rows = frame[drawn]
    labels = annotations.at(rows["document"].to_numpy(), rows["position"].to_numpy())
    assert tuple(labels) == STORED
    for name, codes in labels.items():
        assert codes.tolist() == rows[name].to_list()
    assert len(annotations.at(np.zeros(0, np.int64), np.zeros(0, np.int64))["region"]) == 0
    for document, position in ((-1, 0), (corpus.documents, 0), (0, -1), (0, int(corpus.lengths[0]))):
        with pytest.raises(CorpusError, match=r"annotations\.parquet"):
            annotations.at(np.array([document]), np.array([position]))


def test_the_manifest_declares_each_column_and_names_its_codes(tmp_path):
    labels = {column.name: column for column in make(tmp_path).labels}
    assert tuple(name for name, column in labels.items() if column.categories) == AirrSource.labels
    assert labels["region"].categories == tuple(region.label for region in Region)
    assert labels["imgt"].categories[:2] == ("none", "1") and labels["imgt"].categories[128] == "128"
    residue = labels["residue"]
    assert not residue.is_stored and len(residue.codes_of_tokens) == 29
    assert [residue.categories[code] for code in residue.codes_of_tokens].count("residue") == 20


def test_altered_annotations_are_refused(tmp_path):
    make(tmp_path)
    path = tmp_path / "c" / "annotations.parquet"
    corpus, table = Corpus.open(tmp_path / "c"), pq.read_table(path)
    document = pa.array(np.roll(table["document"].to_numpy(), 1))
    moved = table.set_column(0, "document", document).cast(table.schema)
    nameless = pa.array(np.full(len(table), 8, np.int8))
    for altered in (
        table.slice(1),
        table.set_column(table.schema.get_field_index("region"), table.schema.field("region"), nameless),
        table.drop(["imgt"]),
        moved,
        table.replace_schema_metadata({"schema_version": "9"}),
    ):
        pq.write_table(altered, path)
        with pytest.raises(CorpusError, match=r"annotations\.parquet"):
            Annotations(path, corpus.lengths, corpus.manifest.labels).document(1)
        with pytest.raises(CorpusError, match=r"annotations\.parquet differs"):
            Annotations.open(tmp_path / "c", corpus)
        with pytest.raises(CorpusError, match=r"annotations\.parquet differs"):
            Corpus.open(tmp_path / "c", verify=True)
    path.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(CorpusError, match=r"annotations\.parquet"):
        Annotations.open(tmp_path / "c", corpus)


def test_other_corpora_have_none_and_their_manifests_are_as_before(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    source = TextSource(kind="text", paths=(str(tmp_path / "a.txt"),))
    make(tmp_path, name="c")
    tokenize_corpus(CorpusSpec(source=source, shards=1), "c", tmp_path / "c")
    assert not (tmp_path / "c" / "annotations.parquet").exists()
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert not {"reading", "annotations_file", "labels"} & set(manifest) and manifest["schema_version"] == 1
    with pytest.raises(CorpusError, match="corpus c has no annotations"):
        Annotations.open(tmp_path / "c", Corpus.open(tmp_path / "c"))


def test_another_tokenizer_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(CorpusError, match="need the tokenizer of kind antibody"):
        make(tmp_path, ByteTokenizer(kind="bytes"))
    assert not (tmp_path / "c").exists()
