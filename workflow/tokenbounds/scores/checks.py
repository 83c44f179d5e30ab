"""Checks of streamed score rows: that they are the tokens of the plan, in its order, with possible values.

Nothing is expanded token by token unless something is wrong: within a block the document stays the same and the
position goes up by one, so it is enough to compare the first row of each block with the plan, and every other row with
the row before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenbounds.errors import ScoreError
from tokenbounds.scores.divergence import most_divergence
from tokenbounds.scores.entropies import ENTROPY_STEP_BITS, most_entropy
from tokenbounds.scores.plan_file import PLAN_SCHEMA, Int64Array, column, expand_blocks

KEYS = ("block", "document", "position")
_BLOCKS_PER_SLICE = 1 << 14
_RANK_SLACK_BITS = 2.0**-10  # a hundred times what rounding does to a sum over a vocabulary


class PlanPieces:
    """Cuts the blocks of a shard into those of consecutive runs of its tokens.

    Parameters
    ----------
    batches
        The shard's rows of the plan, in corpus order.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._held: pa.RecordBatch | None = None
        self._skipped = 0  # tokens of the first block held that earlier runs have

    def take(self, tokens: int) -> tuple[list[pa.RecordBatch], int]:
        """The rows of all blocks that the next `tokens` tokens belong to, and how many of the first block's precede.

        There may be fewer at the shard's end.
        """
        skipped, wanted = self._skipped, self._skipped + tokens  # counted from where the first block begins
        found: list[pa.RecordBatch] = []
        while wanted > 0:
            held = self._held if self._held is not None else next(self._batches, None)
            if held is None:
                break
            ends = np.cumsum(column(held, "length"))
            last = int(np.searchsorted(ends, wanted, side="left"))  # the block in which the run ends
            if last == len(ends):
                found.append(held)
                self._held, wanted = None, wanted - int(ends[-1] if len(ends) else 0)
                continue
            found.append(held.slice(0, last + 1))
            ended = int(ends[last]) == wanted
            self._held = held.slice(last + ended)
            wanted = 0 if ended else wanted - int(ends[last - 1] if last else 0)
            break
        self._skipped = max(0, wanted)
        return found, skipped


class PlannedRows:
    """Compares a stream of rows with the plan rows of one shard, a bounded slice of blocks at a time.

    Parameters
    ----------
    batches
        The shard's rows of the plan, in corpus order, from the block on in which the stream begins.
    path
        The score file, for messages.
    skipped
        How many tokens of that block precede the stream.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch], path: Path, skipped: int = 0) -> None:
        self._slices = (
            batch.slice(first, _BLOCKS_PER_SLICE)
            for batch in batches
            for first in range(0, batch.num_rows, _BLOCKS_PER_SLICE)
        )
        self._path = path
        self._skipped = skipped
        self._slice = PLAN_SCHEMA.empty_table()
        self._ends = np.empty(0, np.int64)
        self._done = 0

    def check(self, batch: pa.RecordBatch) -> None:
        """Check that the rows of a batch are the next ones of the plan.

        Raises
        ------
        ScoreError
            Naming the file and the first row that is not.
        """
        found = {name: column(batch, name) for name in KEYS}
        start = 0
        while start < batch.num_rows:
            if self._done == (self._ends[-1] if len(self._ends) else 0):
                self._slice = next(self._slices, PLAN_SCHEMA.empty_table())
                self._ends = np.cumsum(column(self._slice, "length"))
                self._done, self._skipped = self._skipped, 0
            stop = start + min(batch.num_rows - start, int(self._ends[-1]) - self._done if len(self._ends) else 0)
            if stop == start:
                self._refuse("block", found["block"][start], None)
            self._check_piece({name: values[start:stop] for name, values in found.items()})
            self._done += stop - start
            start = stop

    def _check_piece(self, found: dict[str, Int64Array]) -> None:
        """Check rows that are within the current slice."""
        size = len(found["block"])
        first = int(np.searchsorted(self._ends, self._done, side="right"))
        last = int(np.searchsorted(self._ends, self._done + size, side="left"))
        blocks = self._slice.slice(first, last - first + 1)
        starts = self._ends[first : last + 1] - column(blocks, "length")
        at = np.maximum(starts - self._done, 0)
        wanted = {"block": column(blocks, "block"), "document": column(blocks, "document")}
        wanted["position"] = column(blocks, "start") + np.maximum(self._done - starts, 0)
        for name in KEYS:
            values, step = found[name], int(name == "position")
            if not (np.array_equal(values[at], wanted[name]) and _steps_by(values, step, at)):
                # Name the first row that differs.
                skipped = int(self._done - starts[0])
                expected = expand_blocks(blocks)[name][skipped : skipped + size]
                row = int(np.argmax(values != expected))
                self._refuse(name, values[row], expected[row])

    def _refuse(self, name: str, found: np.int64, wanted: np.int64 | None) -> None:
        raise ScoreError(
            f"{self._path}: {name} {found} is where the plan has {'nothing' if wanted is None else wanted}: a "
            "token is missing, repeated or misplaced. Score this shard again."
        )


def _steps_by(values: Int64Array, step: int, starts: Int64Array) -> bool:
    """Whether each value is the one before it plus `step`, except at the rows `starts`."""
    before = values[:-1] + step if step else values[:-1]
    wrong: NDArray[np.bool_] = values[1:] != before
    wrong[starts[starts > 0] - 1] = False
    return not wrong.any()


def check_increasing(batch: pa.RecordBatch, last: tuple[int, int], path: Path) -> tuple[int, int]:
    """Check that (document, position) increase strictly after `last`; return the batch's last pair.

    Raises
    ------
    ScoreError
        Naming the file and the row.
    """
    document = np.concatenate([[last[0]], column(batch, "document")])
    position = np.concatenate([[last[1]], column(batch, "position")])
    step = np.diff(document)
    bad = (step < 0) | ((step == 0) & (np.diff(position) <= 0))
    if bad.any():
        row = int(np.argmax(bad)) + 1
        raise ScoreError(f"{path}: document {document[row]} position {position[row]} occurs twice or is out of order.")
    return int(document[-1]), int(position[-1])


def check_values(batch: pa.RecordBatch, vocabulary_size: int, path: Path) -> None:
    """Check the ranges of the values among the columns that were read, and losses against ranks.

    Raises
    ------
    ScoreError
        Naming the file and the column.
    """
    ranges = {"token": (0, vocabulary_size - 1), "rank": (1, vocabulary_size), "nll_bits": (0.0, np.finfo("f4").max)}
    ranges["kl_bits"] = (0.0, most_divergence(vocabulary_size))
    for name, (low, high) in ranges.items():
        if name in batch.schema.names and batch.num_rows:
            values = batch[name].to_numpy(zero_copy_only=False)
            # A NaN makes both comparisons false.
            if not (values.min() >= low and values.max() <= high):
                raise ScoreError(f"{path}: column {name} has a value outside {low} to {high}. Score this shard again.")
    if {"rank", "nll_bits"} <= set(batch.schema.names) and batch.num_rows:
        rank, nll_bits = (batch[name].to_numpy(zero_copy_only=False) for name in ("rank", "nll_bits"))
        _check_ranks(rank, nll_bits, path)
    for name in {"entropy_bits", "cross_entropy_bits"} & set(batch.schema.names) if batch.num_rows else ():
        steps = batch[name].to_numpy(zero_copy_only=False) * np.float32(1.0 / ENTROPY_STEP_BITS)
        most = most_entropy(vocabulary_size)
        if not (steps.min() >= 0 and steps.max() * ENTROPY_STEP_BITS <= most and np.array_equal(np.rint(steps), steps)):
            raise ScoreError(
                f"{path}: column {name} has a value that is no multiple of {ENTROPY_STEP_BITS} bit from 0 to "
                f"{most}. Score this shard again."
            )


def _check_ranks(rank: NDArray[np.int32], nll_bits: NDArray[np.float32], path: Path) -> None:
    """Check that no loss is below log2(rank).

    A rank counts the tokens that are at least as probable as the true one, so that p · rank ≤ 1. It comes from the same
    logits as the loss, of whatever precision, so that the two differ by rounding in float32 alone.
    """
    with np.errstate(over="ignore"):
        bad = rank > np.exp2(nll_bits + np.float32(_RANK_SLACK_BITS))
    if bad.any():
        row = int(np.argmax(bad))
        raise ScoreError(
            f"{path}: a loss of {nll_bits[row]:.4f} bits at rank {rank[row]}, but {rank[row]} tokens at least as "
            f"probable leave each at least {np.log2(rank[row]):.4f}. Score this shard again."
        )


def check_alphas(batch: pa.RecordBatch, alphas: tuple[float, ...], path: Path) -> None:
    """Check that each smoothing weight, if there are any, is one of a message's grid.

    Raises
    ------
    ScoreError
        Naming the file and the first other value.
    """
    if "alpha" not in batch.schema.names or not batch.num_rows:
        return
    values, grid = batch["alpha"].to_numpy(zero_copy_only=False), np.array(alphas, dtype=np.float32)
    known = grid[np.minimum(np.searchsorted(grid, values), len(grid) - 1)] == values
    if not known.all():
        raise ScoreError(
            f"{path}: column alpha holds {values[np.argmin(known)]}, which is not among the weights that its metadata "
            "names. Score this shard again."
        )
