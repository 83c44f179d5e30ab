"""Reading several score streams of the same tokens side by side, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenbounds.certificates.averages.passes import ScoreStream
from tokenbounds.errors import ScoreError

_COLUMNS = ("block", "document", "position", "nll_bits")
_KEYS = _COLUMNS[:3]

Array = npt.NDArray[Any]


def align_scores(
    streams: Sequence[ScoreStream], entropies: Sequence[bool] = ()
) -> Iterator[tuple[Array, list[Array], list[Array]]]:
    """Yield blocks [n], and the raw losses [n] and entropies [n] (bits) of every stream, for the same tokens.

    Streams may be cut into batches differently; block, document and position must agree row by row.

    Parameters
    ----------
    streams
        Scores of the same tokens.
    entropies
        Of which streams entropies are read; by default of none. Those of the others are zeros.

    Raises
    ------
    ScoreError
        If a stream does not hold exactly the tokens of the first; the message names its file.
    """
    known = entropies or [False] * len(streams)
    iterators = [
        (batch for batch in stream.iter_batches((*_COLUMNS, *(("entropy_bits",) * own))) if batch.num_rows)
        for stream, own in zip(streams, known, strict=True)
    ]
    held = [next(iterator, None) for iterator in iterators]
    while all(batch is not None for batch in held):
        batches = [batch for batch in held if batch is not None]
        count = min(batch.num_rows for batch in batches)
        parts = [batch.slice(0, count) for batch in batches]
        for stream, part in zip(streams[1:], parts[1:], strict=True):
            _check_same(parts[0], part, stream)
        yield (
            parts[0]["block"].to_numpy(),
            [part["nll_bits"].to_numpy() for part in parts],
            [
                part["entropy_bits"].to_numpy() if own else np.zeros(count, np.float32)
                for own, part in zip(known, parts, strict=True)
            ],
        )
        held = [
            batch.slice(count) if batch.num_rows > count else next(iterator, None)
            for batch, iterator in zip(batches, iterators, strict=True)
        ]
    if any(batch is not None for batch in held):
        short = next(stream for stream, batch in zip(streams, held, strict=True) if batch is None)
        raise ScoreError(f"{_name(short)} ends before the other scores of the chain. Score it with the same plan.")


def _check_same(first: pa.RecordBatch, other: pa.RecordBatch, stream: ScoreStream) -> None:
    for name in _KEYS:
        ours, theirs = first[name].to_numpy(), other[name].to_numpy()
        if not np.array_equal(ours, theirs):
            row = int(np.argmax(ours != theirs))
            raise ScoreError(
                f"{_name(stream)} has {name} {theirs[row]} where the first scores of the chain have {ours[row]}. "
                "Score all messages of a chain with the same plan."
            )


def _name(stream: ScoreStream) -> str:
    files = getattr(stream, "files", ())
    return str(files[0]) if files else "a score stream"
