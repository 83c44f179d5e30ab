"""Reading score files one batch at a time; anything wrong with a file is a ScoreError that names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.errors import ScoreError


def group_rows(path: Path) -> list[int]:
    """Number of rows of each row group."""
    try:
        with pq.ParquetFile(path) as file:
            return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise ScoreError(f"{path} is damaged ({error}). Score this shard again.") from error


def read_batches(
    path: Path, columns: list[str], batch_rows: int, groups: list[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream a file with one row group in memory at a time; a page that differs from its checksum is a ScoreError."""
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=batch_rows, row_groups=groups, columns=columns):
                if any(values.null_count for values in batch.columns):
                    raise ScoreError(f"{path} has empty cells. Score this shard again.")
                yield batch
    except (OSError, pa.ArrowException) as error:
        raise ScoreError(f"{path} is damaged ({error}). Score this shard again.") from error
