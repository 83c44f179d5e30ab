"""Windows of the plan with their tokens, and the short windows of context-limited scoring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenbounds.errors import ScoreError
from tokenbounds.scores.plan_file import PLAN_SCHEMA, Int64Array, column


class TokenReader(Protocol):
    """The part of a corpus that scoring reads."""

    vocabulary_size: int
    start_id: int
    tokens: int
    lengths: Int64Array

    def document(self, number: int) -> NDArray[Any]:
        """Tokens of one document, int[n]."""


@dataclass(frozen=True)
class Group:
    """A run of consecutive blocks of the plan, with their tokens.

    Attributes
    ----------
    document, start, length, context
        As in the plan. int64[blocks].
    tokens
        For every block in turn, its window's tokens after the one that precedes them: `1 + context + length` values,
        the first of which is `start_id` at the start of a document. All but the last are the window's inputs, all
        but the first its targets. int64[sum of (1 + context + length)].
    """

    document: Int64Array
    start: Int64Array
    length: Int64Array
    context: Int64Array
    tokens: Int64Array

    @property
    def width(self) -> Int64Array:
        """Inputs in each window, int64[blocks]."""
        return self.context + self.length

    @property
    def first(self) -> Int64Array:
        """Where in `tokens` each block's part begins, int64[blocks]."""
        return np.cumsum(self.width + 1) - self.width - 1

    def targets(self) -> Int64Array:
        """The scored tokens in plan order, int64[sum of length]."""
        targets: Int64Array = self.tokens[_ranges(self.first + 1 + self.context, self.length)]
        return targets


def cut_groups(rows: pa.Table, group_tokens: int) -> Iterator[pa.Table]:
    """Cut plan rows into consecutive runs of at most `group_tokens` window tokens (or one block)."""
    ends = np.cumsum(column(rows, "length") + column(rows, "context"))
    first = 0
    while first < rows.num_rows:
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + group_tokens, side="right"))
        last = max(last, first + 1)
        yield rows.slice(first, last - first)
        first = last


def gather_windows(rows: pa.Table, corpus: TokenReader) -> Group:
    """Read the tokens of a group's windows.

    Raises
    ------
    ScoreError
        If a document is shorter than the plan says.
    """
    document, start, length, context = (column(rows, name) for name in ("document", "start", "length", "context"))
    pieces: list[NDArray[Any]] = []
    ends = start + length
    runs = np.flatnonzero(np.diff(document, prepend=-1))  # the first block of each document: it is read once
    for first, last in zip(runs, [*runs[1:], len(document)], strict=True):
        number, run = int(document[first]), slice(first, last)
        tokens = corpus.document(number)
        if ends[run].max() > len(tokens):
            wanted = ends[run].max()
            raise ScoreError(f"document {number} has {len(tokens)} tokens, the plan wants {wanted}. Plan again.")
        # With the start token in front, the token before position p is at p.
        after_start = np.concatenate([[corpus.start_id], tokens])
        pieces.append(after_start[_ranges(start[run] - context[run], length[run] + context[run] + 1)])
    return Group(document, start, length, context, np.concatenate(pieces).astype(np.int64, copy=False))


def limit_windows(rows: pa.Table, visible_tokens: int) -> pa.Table:
    """Cut plan rows into windows that show at most `visible_tokens` tokens before each token they score.

    At the start of a document, where no more precede, one window scores them all; every further token has its own
    window, of which only the last position is scored.

    Parameters
    ----------
    rows
        Rows of a plan, in corpus order.
    visible_tokens
        At least 1; `start_id` counts.

    Returns
    -------
    pyarrow.Table
        `PLAN_SCHEMA`, the same tokens in the same order; several rows may have the same `block`.
    """
    # With 3 visible tokens, a block of positions 0 … 4 becomes the windows 0-2 (none of which has more than 3
    # tokens before it, the start token included), 3 and 4 (one position each, with 2 more inputs as context).
    start, length = column(rows, "start"), column(rows, "length")
    opening = np.clip(visible_tokens - start, 0, length)  # tokens of the window at the document's start, [rows]
    windows = length - opening + (opening > 0)  # how many windows each row becomes, [rows]
    parent = np.repeat(np.arange(len(start)), windows)  # from here on, one value per window: the row it comes from
    place = _ranges(np.zeros_like(windows), windows)  # its number within the row: 0, 1, …
    opens = (place == 0) & (opening > 0)[parent]
    first = start[parent] + np.where(opens, 0, place + (opening - (opening > 0))[parent])  # first position it scores
    columns = {name: rows[name].to_numpy()[parent] for name in PLAN_SCHEMA.names}
    columns |= {"start": first, "length": np.where(opens, opening[parent], 1)}
    columns["context"] = np.minimum(first, visible_tokens - 1)
    columns["context"][opens] = first[opens]
    return pa.table([pa.array(columns[field.name]).cast(field.type) for field in PLAN_SCHEMA], schema=PLAN_SCHEMA)


def _ranges(first: Int64Array, count: Int64Array) -> Int64Array:
    """`first[i], first[i] + 1, …`, `count[i]` of them, for each i in turn."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    ranges: Int64Array = np.arange(total) - np.repeat(ends - count - first, count)
    return ranges
