"""Tables of documents that repeat one row a great many times are not read."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenbounds.certificates import prior
from tokenbounds.errors import CertificateError
from tokenbounds.files import sha256_file

pytestmark = pytest.mark.adversary


def corpus(folder, rows, stated):
    path = folder / "documents.parquet"
    pq.write_table(pa.table({"sha256": ["0" * 64] * rows, "bytes": [1] * rows}), path)
    entry = SimpleNamespace(file=path.name, sha256=sha256_file(path))
    return prior.CorpusEvidence(folder, SimpleNamespace(documents=stated, documents_file=entry), "0" * 64)


@pytest.mark.parametrize("stated", [99_999, 100_001])
def test_it_has_the_rows_of_its_manifest(tmp_path, stated):
    with pytest.raises(CertificateError, match="100000 rows"):
        corpus(tmp_path, 100_000, stated).document_hashes()


def test_many_rows_take_many_bytes(tmp_path, monkeypatch):
    table = corpus(tmp_path, 100_000, 100_000)
    assert len(table.document_hashes()) == 1
    monkeypatch.setattr(prior, "_FREE_DOCUMENTS", 0)
    with pytest.raises(CertificateError, match="than its size"):
        table.document_hashes()
