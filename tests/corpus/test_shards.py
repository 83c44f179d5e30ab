"""Shards: what is written, how outsiders read it, and what happens when something is wrong."""

import hashlib
import json
import subprocess
import sys

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.config import CorpusSpec, JsonLinesSource, TextSource, TransformersTokenizer
from tokenbounds.corpus.manifest import read_manifest
from tokenbounds.corpus.repeats import Repeats
from tokenbounds.corpus.shards import Corpus, tokenize_corpus
from tokenbounds.errors import CorpusError
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

DOCUMENTS = ["abc", "", "Grüße", "x" * 300, "last"]


def write_lines(path, documents):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return JsonLinesSource(kind="jsonl", paths=(str(path),))


def make(tmp_path, documents=DOCUMENTS, shards=2, name="tiny"):
    source = write_lines(tmp_path / f"{name}.jsonl", documents)
    return tokenize_corpus(CorpusSpec(source=source, shards=shards), name, tmp_path / name)


def test_documents_come_back_in_order_whatever_the_shards(tmp_path):
    for shards in (1, 2, 7):
        manifest = make(tmp_path, shards=shards, name=f"c{shards}")
        corpus = Corpus.open(tmp_path / f"c{shards}", verify=True)
        assert [bytes(ids.astype(np.uint8)).decode() for ids in corpus.iterate()] == DOCUMENTS
        assert list(corpus.lengths) == [len(text.encode()) for text in DOCUMENTS]
        assert corpus.tokens == manifest.tokens == sum(corpus.lengths)
        assert len(manifest.shards) == shards and corpus.documents == 5


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=9), st.integers(1, 4))
def test_any_text_survives(tmp_path_factory, documents, shards):
    folder = tmp_path_factory.mktemp("property")
    if not any(documents):
        with pytest.raises(CorpusError, match="empty"):
            make(folder, documents, shards)
        return
    make(folder, documents, shards)
    corpus = Corpus.open(folder / "tiny")
    assert [bytes(corpus.document(i).astype(np.uint8)).decode() for i in range(len(documents))] == documents


def test_batches_do_not_show(tmp_path, monkeypatch):
    plain = make(tmp_path, name="plain", shards=3)
    monkeypatch.setattr("tokenbounds.corpus.shards._BATCH_BYTES", 1)
    make(tmp_path, name="batched", shards=3)
    read = [list(ids) for ids in Corpus.open(tmp_path / "batched").iterate()]
    assert read == [list(ids) for ids in Corpus.open(tmp_path / "plain").iterate()]
    assert Corpus.open(tmp_path / "batched").manifest.tokens == plain.tokens


def test_shards_open_in_datasets_and_polars(tmp_path):
    manifest = make(tmp_path)
    path = str(tmp_path / "tiny" / manifest.shards[1].file)
    rows = datasets.Dataset.from_file(path)
    assert rows["document"][:] == [1, 3] and rows[0]["tokens"] == [] and rows[1]["tokens"] == [ord("x")] * 300
    frame = pl.read_ipc_stream(path)
    assert frame["document"].to_list() == [1, 3] and frame["tokens"].list.len().to_list() == [0, 300]
    metadata = pa.ipc.open_stream(path).schema.metadata
    assert metadata[b"vocabulary_size"] == b"256" and metadata[b"schema_version"] == b"1"


def test_table_of_documents(tmp_path):
    make(tmp_path)
    table = pl.read_parquet(tmp_path / "tiny" / "documents.parquet")
    assert table["document"].to_list() == list(range(5))
    assert table["bytes"].to_list() == table["tokens"].to_list()
    assert table["sha256"][2] == hashlib.sha256("Grüße".encode()).hexdigest()


def test_documents_that_repeat_an_earlier_one_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenbounds.corpus.shards._BATCH_DOCUMENTS", 2)
    manifest = make(tmp_path, ["ab", "", "cde", "ab", "", "ab", "ba"])
    assert manifest.repeats == Repeats(2, 4) == read_manifest(tmp_path / "tiny" / "manifest.json").repeats
    assert make(tmp_path, ["ab", "", "ba", ""], name="plain").repeats is None
    assert b"repeats" not in (tmp_path / "plain" / "manifest.json").read_bytes()


def test_empty_corpus_leaves_nothing(tmp_path):
    with pytest.raises(CorpusError, match="corpus tiny is empty"):
        make(tmp_path, documents=["", ""])
    assert list((tmp_path / "tiny").iterdir()) == []


def test_failure_in_the_middle_leaves_nothing_and_removes_the_old_corpus(tmp_path):
    make(tmp_path)
    source = write_lines(tmp_path / "bad.jsonl", ["fine"] * 5000)
    with (tmp_path / "bad.jsonl").open("a") as stream:
        stream.write("{broken\n")
    with pytest.raises(CorpusError, match=r"bad\.jsonl:5001"):
        tokenize_corpus(CorpusSpec(source=source), "tiny", tmp_path / "tiny")
    assert list((tmp_path / "tiny").iterdir()) == []


def test_killed_run_leaves_no_manifest_and_the_next_one_clears_up(tmp_path):
    source = write_lines(tmp_path / "tiny.jsonl", ["a"] * 3000)
    program = (
        "import os, sys; from tokenbounds.config import *; from tokenbounds.corpus import shards\n"
        "shards.write_json = lambda *rest: None\n"
        "old = shards._Writer.close\n"
        "shards._Writer.close = lambda self: os._exit(9)\n"
        f"source = JsonLinesSource(kind='jsonl', paths=({str(tmp_path / 'tiny.jsonl')!r},))\n"
        f"shards.tokenize_corpus(CorpusSpec(source=source), 'tiny', {str(tmp_path / 'tiny')!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    left = [path.name for path in (tmp_path / "tiny").iterdir()]
    assert left and all(name.startswith(".") for name in left)
    with pytest.raises(CorpusError, match="not finished"):
        Corpus.open(tmp_path / "tiny")
    tokenize_corpus(CorpusSpec(source=source), "tiny", tmp_path / "tiny")
    assert not any(path.name.startswith(".") for path in (tmp_path / "tiny").iterdir())


@pytest.mark.parametrize("keep", [0, 50, 400])
def test_truncated_shards_are_named(tmp_path, keep):
    make(tmp_path)
    shard = tmp_path / "tiny" / "shard-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(CorpusError, match=r"shard-00001\.arrow"):
        Corpus.open(tmp_path / "tiny")


def test_missing_and_altered_files_are_named(tmp_path):
    make(tmp_path)
    shard = tmp_path / "tiny" / "shard-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[data.index(b"x\0x\0x\0")] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CorpusError, match=r"shard-00001\.arrow differs"):
        Corpus.open(tmp_path / "tiny", verify=True)
    shard.unlink()
    with pytest.raises(CorpusError, match=r"shard-00001\.arrow"):
        Corpus.open(tmp_path / "tiny")


def test_tokens_outside_the_vocabulary_are_refused(tmp_path):
    make(tmp_path)
    shard = tmp_path / "tiny" / "shard-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[data.index(b"x\0x\0x\0") + 1] = 9
    shard.write_bytes(bytes(data))
    with pytest.raises(CorpusError, match=r"shard-00001\.arrow holds token 2424"):
        Corpus.open(tmp_path / "tiny").document(3)


@pytest.mark.parametrize(
    "change",
    [{"schema_version": 9}, {"tokens": 1}, {"shards": []}, {"tokenizer": None}, {"documents": -1}, {"documents": "5"}],
)
def test_altered_manifests_are_refused(tmp_path, change):
    make(tmp_path)
    path = tmp_path / "tiny" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CorpusError, match=r"manifest\.json"):
        Corpus.open(tmp_path / "tiny")


def test_manifest_cannot_lead_outside_its_folder(tmp_path):
    make(tmp_path)
    path = tmp_path / "tiny" / "manifest.json"
    path.write_text(path.read_text().replace("shard-00001.arrow", "../shard-00001.arrow"))
    with pytest.raises(CorpusError, match="does not add up"):
        Corpus.open(tmp_path / "tiny")


def large_vocabulary(folder, size):
    words = {"<s>": 0, **{f"w{i}": i for i in range(1, size)}}
    backend = Backend(models.WordLevel(words, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>").save_pretrained(folder)


def test_vocabularies_beyond_16_bits(tmp_path):
    large_vocabulary(tmp_path / "tokenizer", 70_000)
    source = write_lines(tmp_path / "big.jsonl", ["w1 w69999", "w65535 w65536 w2"])
    tokenizer = TransformersTokenizer(kind="transformers", name=str(tmp_path / "tokenizer"))
    tokenize_corpus(CorpusSpec(source=source, tokenizer=tokenizer, shards=1), "big", tmp_path / "big")
    corpus = Corpus.open(tmp_path / "big")
    assert [list(ids) for ids in corpus.iterate()] == [[1, 69999], [65535, 65536, 2]]
    assert corpus.document(0).dtype == np.uint32


def test_tokenizer_trained_on_a_corpus_must_share_no_document(tmp_path):
    make(tmp_path, ["training text", "", "shared"], name="training")
    large_vocabulary(tmp_path / "tokenizer", 10)
    tokenizer = TransformersTokenizer(kind="transformers", name=str(tmp_path / "tokenizer"), trained_on="training")
    manifest = tmp_path / "training" / "manifest.json"
    disjoint = CorpusSpec(source=write_lines(tmp_path / "a.jsonl", ["w1 w2", ""]), tokenizer=tokenizer)
    tokenize_corpus(disjoint, "a", tmp_path / "a", exclude_overlap_with=manifest)
    overlapping = CorpusSpec(source=write_lines(tmp_path / "b.jsonl", ["w1", "shared"]), tokenizer=tokenizer)
    with pytest.raises(CorpusError, match=r"b\.jsonl:2 is also in corpus training"):
        tokenize_corpus(overlapping, "b", tmp_path / "b", exclude_overlap_with=manifest)
    assert list((tmp_path / "b").iterdir()) == []
    with pytest.raises(CorpusError, match="give its manifest"):
        tokenize_corpus(disjoint, "a", tmp_path / "a")
    make(tmp_path, ["z"], name="other")
    with pytest.raises(CorpusError, match="the tokenizer names training"):
        tokenize_corpus(disjoint, "a", tmp_path / "a", exclude_overlap_with=tmp_path / "other" / "manifest.json")


def test_missing_source_keeps_its_own_error(tmp_path):
    source = TextSource(kind="text", paths=(str(tmp_path / "absent"),))
    with pytest.raises(CorpusError, match="absent matches no file"):
        tokenize_corpus(CorpusSpec(source=source), "t", tmp_path / "t")
