"""Tables of documents: repeated rows are not read, and what they say of documents does not hide any."""

import json
import shutil
from types import SimpleNamespace

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from json_corpora import json_corpus
from tokenbounds.certificates import document_hashes
from tokenbounds.certificates.prior import CorpusEvidence, compare_documents
from tokenbounds.errors import CertificateError
from tokenbounds.files import sha256_file, write_json

pytestmark = pytest.mark.adversary
SHARED = "QVQLVESGGG"


def table(folder, rows, stated):
    path = folder / "documents.parquet"
    pq.write_table(pa.table({"sha256": ["0" * 64] * rows, "bytes": [1] * rows, "tokens": [1] * rows}), path)
    entry = SimpleNamespace(file=path.name, sha256=sha256_file(path))
    absent = [SimpleNamespace(file="shard-00000.arrow")]
    return folder, SimpleNamespace(documents=stated, documents_file=entry, shards=absent)


@pytest.mark.parametrize("stated", [99_999, 100_001])
def test_it_has_the_rows_of_its_manifest(tmp_path, stated):
    with pytest.raises(CertificateError, match="100000 rows"):
        document_hashes.read_document_hashes(*table(tmp_path, 100_000, stated))


def test_many_rows_take_many_bytes(tmp_path, monkeypatch):
    repeated = table(tmp_path, 100_000, 100_000)
    assert len(document_hashes.read_document_hashes(*repeated).texts) == 1
    monkeypatch.setattr(document_hashes, "_FREE_DOCUMENTS", 0)
    with pytest.raises(CertificateError, match="than its size"):
        document_hashes.read_document_hashes(*repeated)


def corpus(folder, texts, tokenizer="antibody"):
    return json_corpus(folder, texts, tokenizer).parent


def edit(folder, **columns):
    """Alter the first document's row of a table, and name the table in the manifest."""
    path, manifest = folder / "documents.parquet", folder / "manifest.json"
    rows = pl.read_parquet(path)
    for name, value in columns.items():
        rows[0, name] = value
    rows.write_parquet(path)
    content = json.loads(manifest.read_text())
    content["documents_file"]["sha256"] = sha256_file(path)
    write_json(manifest, content)


def compare(own, other):
    return compare_documents(CorpusEvidence.open(own), (other,))


@pytest.fixture
def pair(tmp_path):
    """A corpus, and one to train on that holds its first document."""
    return corpus(tmp_path / "own", [SHARED, "QVQ"]), corpus(tmp_path / "other", [SHARED, "EVQL"])


def test_a_document_is_found_by_its_tokens_whatever_the_table_says_of_its_text(pair):
    for folder in pair:
        edit(folder, sha256=folder.name[1].encode().hex() * 32)
    with pytest.raises(CertificateError, match=r"share 1 documents .*by its tokens"):
        compare(*pair)
    for shard in pair[1].glob("shard-*.arrow"):  # without shards the table is believed
        shard.unlink()
    with pytest.raises(CertificateError, match=r"share 1 documents .*by its tokens"):
        compare(*pair)
    edit(pair[1], tokens_sha256="0" * 64)
    assert compare(*pair).held_out


@pytest.mark.parametrize("changes", [{"tokens_sha256": "0" * 64}, {"tokens": 9}, {"bytes": 0, "tokens": 0}])
def test_a_table_that_denies_its_shards_is_refused(pair, changes):
    edit(pair[0], sha256="0" * 64, **changes)
    with pytest.raises(CertificateError, match=r"documents\.parquet does not tell what the shards hold: document 0"):
        compare(*pair)


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"bytes": 9}])
def test_the_tokens_of_a_corpus_of_bytes_are_its_text(tmp_path, changes):
    own = corpus(tmp_path / "own", [SHARED], "bytes")
    compare(own, corpus(tmp_path / "other", ["EVQL"], "bytes"))
    edit(own, **changes)
    with pytest.raises(CertificateError, match="document 0"):
        compare(own, tmp_path / "other")


def test_another_tokenizer_s_tokens_are_not_compared_but_texts_are(tmp_path, pair):
    chance = corpus(tmp_path / "bytes", ["\x05"], "bytes")
    assert compare(chance, pair[0]).held_out
    with pytest.raises(CertificateError, match=r"share 1 documents .*by its text"):
        compare(corpus(tmp_path / "same", [SHARED], "bytes"), pair[0])


def test_earlier_tables_without_digests_of_tokens_are_read(pair):
    for folder in pair:
        path = folder / "documents.parquet"
        pl.read_parquet(path).drop("tokens_sha256").write_parquet(path)
        edit(folder)
    with pytest.raises(CertificateError, match="by its text"):
        compare(*pair)
    edit(pair[0], sha256="0" * 64)
    with pytest.raises(CertificateError, match="by its tokens"):
        compare(*pair)
    shutil.move(pair[1] / "shard-00000.arrow", pair[1] / "elsewhere")
    assert compare(*pair).held_out
