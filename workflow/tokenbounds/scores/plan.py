"""The scoring plan: which tokens of a corpus are scored, in which windows, by which job.

A *window* shows the model at most `context` tokens and a *block* is what one window scores. The first window of a
document starts from `start_id` and scores up to `context` tokens. Each further window advances by `stride` tokens,
scores those, and sees `context - stride` more of what came before. Every token is in exactly one block, so block
averages weighted by block length give the corpus mean exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, Unpack

import numpy as np
import pyarrow as pa

from tokenbounds.corpus.manifest import MANIFEST_NAME
from tokenbounds.corpus.reader import Corpus
from tokenbounds.draws import smallest_of_each, uniform_integers
from tokenbounds.errors import ScoreError
from tokenbounds.files import sha256_file
from tokenbounds.scores.plan_file import PLAN_SCHEMA, Int64Array, plan_version, write_plan
from tokenbounds.scores.seeds import derive_seed

_BLOCKS_PER_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Layout:
    """Documents and their blocks, before any table exists. Arrays are int64[documents + 1] running totals."""

    lengths: Int64Array
    context: int
    stride: int
    first_token: Int64Array
    first_block: Int64Array


class PlanSettings(TypedDict):
    """Keywords of `plan_scoring`."""

    context: int
    stride: int | None
    sample_tokens: int | None
    seed: int
    shards: int
    visible_tokens: NotRequired[int | None]
    blocks_per_document: NotRequired[int | None]


def plan_scoring(lengths: Int64Array, **settings: Unpack[PlanSettings]) -> pa.Table:
    """Plan the blocks of a corpus, all of them or some: the table of all `plan_batches`."""
    schema, batches = plan_batches(lengths, **settings)
    return pa.Table.from_batches(batches, schema=schema)


def plan_batches(
    lengths: Int64Array,
    *,
    context: int,
    stride: int | None,
    sample_tokens: int | None,
    seed: int,
    shards: int,
    visible_tokens: int | None = None,
    blocks_per_document: int | None = None,
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Plan the blocks of a corpus, some at a time: all of them, a sample, or some of each document.

    A sample is `ceil(sample_tokens / mean block length)` draws, with replacement, of a token index uniform on
    0 … m-1; the block around it is scored. A block is thus drawn with probability proportional to its length, which
    makes the average over draws of block averages an unbiased estimate of the corpus mean. The draws depend on `seed`
    and m alone.

    Parameters
    ----------
    lengths
        Tokens of every document, in corpus order; zeros allowed. int64[documents].
    context, stride
        Window length and step, in tokens; a `stride` of None means `context`.
    sample_tokens
        Approximate number of tokens to draw; None scores everything.
    seed
        Of the draws.
    shards
        Number of jobs; each gets a contiguous run of blocks with nearly the same number of tokens.
    visible_tokens
        Tokens that the model sees before each one it predicts; None for its whole window. Blocks stay as they are.
    blocks_per_document
        Score only so many blocks of each document, chosen uniformly and without replacement; None for all of them. The
        choice depends on `seed` and the documents' lengths alone.

    Returns
    -------
    schema, batches
        `PLAN_SCHEMA`, with what `Plan` holds (except the hashes) as metadata; and the rows, sorted by block.

    Raises
    ------
    ScoreError
        If the corpus has no tokens or a setting is out of range.
    """
    stride = context if stride is None else stride
    lengths = np.ascontiguousarray(lengths, dtype=np.int64)
    _check_settings(lengths, context, stride, sample_tokens, shards)
    _check_visible(visible_tokens, context, stride)
    _check_partial(blocks_per_document, sample_tokens)
    layout = _lay_out(lengths, context, stride)
    tokens, blocks = int(layout.first_token[-1]), int(layout.first_block[-1])
    if blocks_per_document is not None:
        kept = np.flatnonzero(smallest_of_each(np.diff(layout.first_block), blocks_per_document, seed))
        mode, draws = "partial", len(kept)
        scored = int(_block_columns(layout, kept)["length"].sum())
        chunks = (
            _block_columns(layout, kept[first : first + _BLOCKS_PER_CHUNK])
            for first in range(0, draws, _BLOCKS_PER_CHUNK)
        )
    elif sample_tokens is None:
        mode, scored, draws = "exhaustive", tokens, blocks
        chunks = (
            _block_columns(layout, np.arange(first, min(first + _BLOCKS_PER_CHUNK, blocks), dtype=np.int64))
            for first in range(0, blocks, _BLOCKS_PER_CHUNK)
        )
    else:
        mode, draws = "sampled", -(-sample_tokens * blocks // tokens)
        # Distinct blocks in corpus order, and how often each was drawn: the block around each of `draws` tokens.
        around = _blocks_of_tokens(layout, uniform_integers(tokens, draws, seed))
        sampled, times = np.unique(around, return_counts=True)
        times = times.astype(np.int64)
        scored = int(_block_columns(layout, sampled)["length"].sum())
        chunks = (
            _block_columns(layout, sampled[first : first + _BLOCKS_PER_CHUNK], times[first : first + _BLOCKS_PER_CHUNK])
            for first in range(0, len(sampled), _BLOCKS_PER_CHUNK)
        )
    metadata: dict[str, Any] = {"mode": mode, "draws": draws, "tokens": tokens}
    metadata |= {"documents": len(lengths), "blocks": blocks, "context": context, "stride": stride}
    if visible_tokens is not None:
        metadata |= {"visible_tokens": visible_tokens}
    if blocks_per_document is not None:
        metadata |= {"blocks_per_document": blocks_per_document}
    metadata |= {"seed": seed, "shards": shards}
    texts = {key: str(value) for key, value in (metadata | {"schema_version": plan_version(metadata)}).items()}
    schema = PLAN_SCHEMA.with_metadata(texts)
    return schema, _assign_shards(chunks, schema, scored, shards)


def window_rows(document: Int64Array, start: Int64Array, length: Int64Array) -> pa.Table:
    """Rows of a plan for windows chosen elsewhere, in their order, which score all that they show.

    Parameters
    ----------
    document, start, length
        Where each window begins and how many tokens it has, int64[windows].
    """
    zeros = np.zeros_like(document)
    columns = {"block": np.arange(len(document)), "document": document, "start": start, "length": length}
    columns |= {"context": zeros, "draws": zeros + 1, "shard": zeros}
    return pa.table([pa.array(columns[field.name]).cast(field.type) for field in PLAN_SCHEMA], schema=PLAN_SCHEMA)


def plan_corpus(corpus_directory: Path | str, spec: Any, out: Path | str) -> None:
    """Plan the scoring of a tokenized corpus and write the plan.

    Parameters
    ----------
    corpus_directory
        Folder of `manifest.json` and the token shards.
    spec
        An `EvaluationSpec`: all but what says how to compute (`dtype`, `batch_tokens`) is used.
    out
        The plan's Parquet file.
    """
    corpus = Corpus.open(corpus_directory, verify=True)
    if spec.blocks_per_document is not None and corpus.manifest.reference is None:
        raise ScoreError(
            f"blocks_per_document is for corpora by reference, and {corpus_directory} is scored by tokens. Use "
            "sample_tokens."
        )
    seed = derive_seed(shard.sha256 for shard in corpus.manifest.shards) if spec.seed is None else spec.seed
    table = plan_scoring(
        corpus.lengths,
        context=spec.context,
        stride=spec.stride,
        sample_tokens=spec.sample_tokens,
        seed=seed,
        shards=spec.shards,
        visible_tokens=spec.visible_tokens,
        blocks_per_document=spec.blocks_per_document,
    )
    write_plan(table, out, manifest_sha256=sha256_file(Path(corpus_directory) / MANIFEST_NAME))


def _check_settings(lengths: Int64Array, context: int, stride: int, sample_tokens: int | None, shards: int) -> None:
    if lengths.ndim != 1 or np.any(lengths < 0):
        raise ScoreError("document lengths must be one list of numbers that are not negative. Tokenize again.")
    if not lengths.any():
        raise ScoreError("the corpus has no tokens, so there is nothing to score. Check its source.")
    if context < 1 or not 1 <= stride <= context:
        raise ScoreError(f"context {context} and stride {stride} do not fit: choose 1 <= stride <= context.")
    if sample_tokens is not None and sample_tokens < 1:
        raise ScoreError(f"sample_tokens is {sample_tokens}; choose a positive number, or null to score everything.")
    if shards < 1:
        raise ScoreError(f"shards is {shards}; choose at least 1.")


def _check_visible(visible_tokens: int | None, context: int, stride: int) -> None:
    if visible_tokens is None:
        return
    if visible_tokens < 1:
        raise ScoreError(f"visible_tokens is {visible_tokens}; choose at least 1, or null for the whole window.")
    if stride != context:
        raise ScoreError(
            f"visible_tokens {visible_tokens} says what the model sees, and so does stride {stride}. Leave one out."
        )


def _check_partial(blocks_per_document: int | None, sample_tokens: int | None) -> None:
    if blocks_per_document is None:
        return
    if blocks_per_document < 1:
        raise ScoreError(f"blocks_per_document is {blocks_per_document}; choose at least 1, or null to score them all.")
    if sample_tokens is not None:
        raise ScoreError("blocks_per_document and sample_tokens are two ways to score a part. Leave one out.")


def count_blocks(lengths: Int64Array, context: int, stride: int) -> Int64Array:
    """Blocks of each document, int64[documents], by its length in tokens."""
    further: Int64Array = -(-np.maximum(lengths - context, 0) // stride)
    return further + (lengths > 0)


def _lay_out(lengths: Int64Array, context: int, stride: int) -> _Layout:
    blocks = count_blocks(lengths, context, stride)
    zero = np.zeros(1, np.int64)
    first_token = np.concatenate([zero, np.cumsum(lengths)])
    return _Layout(lengths, context, stride, first_token, np.concatenate([zero, np.cumsum(blocks)]))


def _block_columns(layout: _Layout, blocks: Int64Array, draws: Int64Array | None = None) -> dict[str, Int64Array]:
    """Columns of the plan, except `shard`, for the given block numbers."""
    document = np.searchsorted(layout.first_block, blocks, side="right") - 1
    within = blocks - layout.first_block[document]
    first = within == 0
    start = np.where(first, 0, layout.context + (within - 1) * layout.stride)
    length = np.minimum(layout.lengths[document] - start, np.where(first, layout.context, layout.stride))
    return {
        "block": blocks,
        "document": document,
        "start": start,
        "length": length,
        "context": np.where(first, 0, layout.context - layout.stride),
        "draws": np.ones_like(blocks) if draws is None else draws,
    }


def _blocks_of_tokens(layout: _Layout, tokens: Int64Array) -> Int64Array:
    """Block numbers of tokens given by their index in the corpus."""
    document = np.searchsorted(layout.first_token, tokens, side="right") - 1
    beyond = tokens - layout.first_token[document] - layout.context
    within = np.where(beyond < 0, 0, beyond // layout.stride + 1)
    result: Int64Array = layout.first_block[document] + within
    return result


def _assign_shards(
    chunks: Iterator[dict[str, Int64Array]], schema: pa.Schema, scored: int, shards: int
) -> Iterator[pa.RecordBatch]:
    """Finish the columns: block i goes to the shard in which the middle of its tokens falls."""
    before = 0
    for columns in chunks:
        ends = before + np.cumsum(columns["length"])
        middle_doubled = 2 * ends - columns["length"]
        columns["shard"] = middle_doubled * shards // (2 * scored)
        before = int(ends[-1])
        arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
