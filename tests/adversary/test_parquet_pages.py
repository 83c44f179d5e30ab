"""Parquet files that unpack to more than their rows take are refused by their headers, before they are read."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenbounds.errors import ScoreError
from tokenbounds.parquet_pages import check_pages

pytestmark = pytest.mark.adversary
ROWS = 5000


def write(path, **options):
    """A file of losses in one page, and what it holds."""
    losses = np.random.default_rng(0).random(ROWS).astype(np.float32)
    pq.write_table(pa.table({"nll_bits": losses}), path, compression="zstd", use_dictionary=False, **options)
    return bytearray(path.read_bytes())


def test_honest_files_pass_in_every_encoding(tmp_path):
    table = pa.table(
        {
            "position": np.arange(ROWS),
            "rank": np.arange(ROWS, dtype=np.int32) % 7,
            "changed": np.arange(ROWS) % 3 == 0,
            "name": [f"document {i} " + 60 * "x" for i in range(ROWS)],
            "label": pa.array([None if i % 2 else i % 100 for i in range(ROWS)], pa.int8()),
        }
    )
    for version in ("1.0", "2.0"):
        pq.write_table(
            table, tmp_path / "a", use_dictionary=["rank", "label"], write_page_checksum=True,
            column_encoding={"position": "DELTA_BINARY_PACKED"}, data_page_version=version,
            data_page_size=1000, row_group_size=2000,
        )  # fmt: skip
        check_pages(tmp_path / "a", ScoreError)
    pq.write_table(table.slice(0, 0), tmp_path / "a")
    check_pages(tmp_path / "a", ScoreError)


def test_a_short_file_of_a_long_text_is_refused(tmp_path):
    pq.write_table(pa.table({"sha256": ["0" * (16 << 20)]}), tmp_path / "a", compression="zstd")
    assert (tmp_path / "a").stat().st_size < 1 << 17
    with pytest.raises(ScoreError, match=r"column sha256 claims 1 values in 16,7.* too many for 1 rows"):
        check_pages(tmp_path / "a", ScoreError)


def test_a_page_that_claims_more_than_its_column_is_refused(tmp_path):
    """The footer tells the truth, and the page's own header, which readers allocate by, does not."""
    data = write(tmp_path / "a")
    start = pq.read_metadata(tmp_path / "a").row_group(0).column(0).data_page_offset
    assert data[start + 2] == 0x15  # field 2, a number
    size = slice(start + 3, start + 6)  # of three bytes, the lowest seven bits of each first
    assert sum((byte & 127) << 7 * place for place, byte in enumerate(data[size])) > 2 * 4 * ROWS
    data[size] = b"\xfe\xff\x7f"
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ScoreError, match="claims to unpack to 1,048,575 bytes, with 5,000 rows"):
        check_pages(tmp_path / "a", ScoreError)


def test_damaged_headers_are_refused_or_read(tmp_path):
    data = write(tmp_path / "a", write_page_checksum=True)
    metadata = pq.read_metadata(tmp_path / "a").row_group(0).column(0)
    rng, refused, likely = random.Random(0), 0, (0, 0x19, 0x1C, 0xFF)
    for _ in range(400):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 2))):
            mutant[metadata.data_page_offset + rng.randrange(60)] = rng.choice((*likely, rng.randrange(256)))
        (tmp_path / "a").write_bytes(mutant)
        try:
            check_pages(tmp_path / "a", ScoreError)
        except ScoreError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"PAR1" * 10)
    with pytest.raises(ScoreError, match="cannot be read as Parquet"):
        check_pages(tmp_path / "a", ScoreError)
