"""Rows of Arrow files of either kind: those with a footer, of which any batch can be read, and streams.

`datasets` writes streams. Of a file only the column of the text is kept, a batch at a time.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import IO, Any

import pyarrow as pa

from tokenbounds.errors import CorpusError

_MAGIC = b"ARROW1"  # at the beginning of a file with a footer


def count_rows(stream: IO[bytes]) -> tuple[int, ...]:
    """Rows of each batch of a file; all of it is read once.

    Raises
    ------
    OSError, pyarrow.ArrowException
        If it is damaged.
    """
    return tuple(batch.num_rows for batch in _batches(_open(stream)))


def arrow_rows(stream: IO[bytes], sizes: Sequence[int], rows: Sequence[int], field: str) -> Iterator[str | None]:
    """Yield the texts of some rows, in increasing order.

    Parameters
    ----------
    stream
        Which can seek.
    sizes
        Rows of each batch, from `count_rows`.
    rows
        Numbers of the wanted rows.
    field
        The column of the text.

    Raises
    ------
    CorpusError
        If there is no such column, or the batches are others.
    OSError, pyarrow.ArrowException
        If the file is damaged.
    """
    names = _open(stream).schema.names
    if field not in names:
        raise CorpusError(
            f"a pinned file has no column '{field}' (it has: {', '.join(names)}). Set the source's 'field'."
        )
    reader = _open(stream, pa.ipc.IpcReadOptions(included_fields=[names.index(field)]))
    ends = list(accumulate(sizes))
    wanted = [(bisect_right(ends, row), row) for row in rows]  # the batch of each row
    batches = enumerate(_batches(reader)) if isinstance(reader, pa.RecordBatchStreamReader) else None
    at, column = -1, pa.array([], pa.string())
    for number, row in wanted:
        if number != at:
            batch = _batch(reader, batches, number)
            if batch is None or batch.num_rows != sizes[number]:
                raise CorpusError("the batches of a pinned file are not those that were pinned. Pin the files again.")
            at, column = number, batch.column(0)
            column.validate(full=True)
        yield column[row - ends[number] + sizes[number]].as_py()


def _batch(reader: Any, batches: Iterator[tuple[int, pa.RecordBatch]] | None, number: int) -> pa.RecordBatch | None:
    """A batch by its number: read directly, or the next of a stream's with this number."""
    if batches is None:
        return reader.get_batch(number) if number < reader.num_record_batches else None
    return next((batch for place, batch in batches if place == number), None)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchStreamReader):
        yield from reader
        return
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _open(stream: IO[bytes], options: pa.ipc.IpcReadOptions | None = None) -> Any:
    """A reader of a file with a footer, or of a stream."""
    stream.seek(0)
    footed = stream.read(len(_MAGIC)) == _MAGIC
    stream.seek(0, io.SEEK_SET)
    return (pa.ipc.open_file if footed else pa.ipc.open_stream)(stream, options=options)
