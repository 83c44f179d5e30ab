"""The scoring plan: which tokens of a corpus are scored, in which windows, by which job.

A *window* shows the model at most `context` tokens and a *block* is what one window scores. The first window of a
document starts from `start_id` and scores up to `context` tokens. Each further window advances by `stride` tokens,
scores those, and sees `context - stride` more of what came before. Every token is in exactly one block, so block
averages weighted by block length give the corpus mean exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokenbounds.corpus.manifest import MANIFEST_NAME
from tokenbounds.corpus.reader import Corpus
from tokenbounds.draws import smallest_of_each, uniform_integers
from tokenbounds.errors import ScoreError
from tokenbounds.files import atomic_path, sha256_file
from tokenbounds.parquet_pages import check_pages
from tokenbounds.scores.seeds import derive_seed
from tokenbounds.seals import BLANK_SEAL, SEAL_KEY, seal, sha256_of_sealed

SCHEMA_VERSION = 1
# Of plans with `visible_tokens`: a release that does not know them must not score their tokens with the whole window.
LIMITED_SCHEMA_VERSION = 2
# Of plans that score only some blocks of each document, which certificates of a corpus by reference scale up.
PARTIAL_SCHEMA_VERSION = 3
PLAN_SCHEMA = pa.schema(
    [
        ("block", pa.int64()),
        ("document", pa.int64()),
        ("start", pa.int64()),
        ("length", pa.int32()),
        ("context", pa.int32()),
        ("draws", pa.int32()),
        ("shard", pa.int32()),
    ]
)
_REMEDY = "Run plan_scoring again."
_BLOCKS_PER_CHUNK = 1 << 20
_BLOCKS_PER_BATCH = 1 << 16  # blocks that are read and checked together
_TEXT_KEYS = ("mode", "manifest_sha256")
# Largest value of each number that does not follow from others. A seed may be any of moderate size.
_MOST = {"tokens": 1 << 48, "documents": 1 << 48, "context": 1 << 31, "shards": 1 << 31, "seed": 1 << 128}
_INTEGER_KEYS = ("draws", "blocks", "stride", *_MOST)
_OPTIONAL_KEYS = ("visible_tokens", "blocks_per_document")
_WHOLE_MODES = ("exhaustive", "sampled")  # of all documents alike
_FREE_DRAWS = 1 << 20  # a sample may have this many draws, or this many per token, before it is refused
_DRAWS_PER_TOKEN = 16

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """A plan as read from its file.

    Attributes
    ----------
    table
        One row per block (`PLAN_SCHEMA`), in corpus order. A block scores the tokens `start … start + length - 1` of
        its document; its window also predicts, without counting them, the `context` tokens before `start`. So the
        window's inputs are the tokens `start - context - 1 … start + length - 2`, where token -1 is `start_id`.
        `draws` says how often the block was drawn (1 if everything is scored).
    mode
        "exhaustive", "sampled", or "partial": some blocks of each document.
    draws
        Number of draws (sampled), or of scored blocks.
    tokens, documents, blocks
        Size of the whole corpus, in tokens, documents and blocks of the exhaustive numbering.
    visible_tokens
        Tokens that the model sees before each one it predicts; None for its whole window.
    blocks_per_document
        Most blocks of a document that are scored; None for all, or for a sample of the whole corpus.
    sha256
        Of the plan's file.
    """

    table: pa.Table
    mode: Literal["exhaustive", "sampled", "partial"]
    draws: int
    tokens: int
    documents: int
    blocks: int
    context: int
    stride: int
    seed: int
    shards: int
    manifest_sha256: str
    sha256: str
    visible_tokens: int | None = None
    blocks_per_document: int | None = None

    def shard(self, shard: int) -> pa.Table:
        """Rows of one shard, in corpus order; possibly none.

        Raises
        ------
        ScoreError
            If the plan has no such shard.
        """
        if not 0 <= shard < self.shards:
            raise ScoreError(f"the plan has shards 0 to {self.shards - 1}, not {shard}. Ask for one of those.")
        return self.table.filter(pc.equal(self.table["shard"], shard))


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
    texts = {key: str(value) for key, value in (metadata | {"schema_version": _version(metadata)}).items()}
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


def write_plan(table: pa.Table, path: Path | str, *, manifest_sha256: str) -> None:
    """Write a table of `plan_scoring` as Parquet, atomically, bound to the corpus manifest it was made for."""
    metadata = {**(table.schema.metadata or {}), b"manifest_sha256": manifest_sha256.encode()}
    schema = table.schema.with_metadata(metadata)
    with atomic_path(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            writer.write_table(table.replace_schema_metadata(metadata))
            writer.add_key_value_metadata({SEAL_KEY: BLANK_SEAL})
        seal(temporary)


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


def read_plan(path: Path | str, tokens: int | None = None) -> Plan:
    """Read a plan and its metadata.

    No rows are read before every number is known to be possible: a plan is never larger than its corpus.

    Parameters
    ----------
    path
        The plan's file.
    tokens
        Of the corpus, if that is known.

    Raises
    ------
    ScoreError
        If the file is missing, damaged, not a plan, for another corpus or of an unknown version.
    """
    path = Path(path)
    sha256 = sha256_of_sealed(path, ScoreError, _REMEDY)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            values = _read_metadata(path, file.schema_arrow)
            rows = sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
            _check_numbers(path, values, rows, tokens)
            check_pages(path, ScoreError)
            table = pa.Table.from_batches(_checked_batches(path, file, values), schema=file.schema_arrow)
    except (OSError, pa.ArrowException) as error:
        raise ScoreError(f"{path} cannot be read as a plan ({error}). {_REMEDY}") from error
    return Plan(table=table, sha256=sha256, **values)


def _checked_batches(path: Path, file: pq.ParquetFile, values: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    """Rows of a plan, a batch at a time; reading ends at the first that its corpus cannot have."""
    scored = 0
    for batch in file.iter_batches(batch_size=_BLOCKS_PER_BATCH):
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns):
            raise ScoreError(f"{path} has empty cells. {_REMEDY}")
        scored += _check_rows(path, batch, values)
        if scored > values["tokens"]:
            raise ScoreError(f"{path} scores more tokens than the {values['tokens']} of its corpus. {_REMEDY}")
        yield batch


def _read_metadata(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """What `Plan` contains besides its table and hash."""
    metadata = {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (schema.metadata or {}).items()
    }
    optional = [key for key in _OPTIONAL_KEYS if key in metadata]
    expected = _version(metadata)
    if metadata.get("schema_version") != str(expected):
        found = metadata.get("schema_version", "none")
        raise ScoreError(f"{path} has schema version {found}, not {expected}. Plan again with this release.")
    if not schema.equals(PLAN_SCHEMA):
        raise ScoreError(f"{path} does not have the columns of a plan. Run plan_scoring again.")
    try:
        numbers = {key: int(metadata[key]) for key in (*_INTEGER_KEYS, *optional)}
        texts: dict[str, str] = {key: metadata[key] for key in _TEXT_KEYS}
    except (KeyError, ValueError) as error:
        raise ScoreError(f"{path} lacks plan metadata ({error}). Run plan_scoring again.") from error
    if texts["mode"] != "partial" if "blocks_per_document" in metadata else texts["mode"] not in _WHOLE_MODES:
        raise ScoreError(f"{path} has the unknown mode {texts['mode']!r}. Plan again with this release.")
    return {**numbers, **texts}


def _check_numbers(path: Path, values: dict[str, Any], rows: int, tokens: int | None) -> None:
    """Refuse numbers that no corpus of this size has: every block has a token, and is drawn or scored once."""
    size = values["tokens"]
    if tokens is not None and size != tokens:
        raise ScoreError(f"{path} plans {size} tokens, and the corpus has {tokens}. {_REMEDY}")
    most = {**_MOST, "blocks": size, "stride": values["context"], "visible_tokens": _MOST["context"]}
    most |= {"blocks_per_document": size}
    most["draws"] = values["blocks"] if values["mode"] != "sampled" else _FREE_DRAWS + _DRAWS_PER_TOKEN * size
    for name, highest in most.items():
        lowest = 0 if name == "seed" else 1
        if name in values and not lowest <= values[name] <= highest:
            raise ScoreError(f"{path} has {name} {values[name]}, not between {lowest} and {highest}. {_REMEDY}")
    if not 0 < rows <= min(values["blocks"], values["draws"]):
        raise ScoreError(f"{path} has {rows} rows for {values['blocks']} blocks and {values['draws']} draws. {_REMEDY}")


def _check_rows(path: Path, batch: pa.RecordBatch, values: dict[str, Any]) -> int:
    """Refuse cells outside the corpus before anything is sized by them; return how many tokens the rows score."""
    most = {"block": values["blocks"] - 1, "document": values["documents"] - 1, "shard": values["shards"] - 1}
    most |= {"start": values["tokens"] - 1, "context": values["context"], "length": values["context"]}
    for name, highest in most.items():
        ends = pc.min_max(batch[name]).as_py()
        lowest = int(name == "length")
        if not lowest <= ends["min"] <= ends["max"] <= highest:
            raise ScoreError(f"{path}: column {name} has a value outside {lowest} to {highest}. {_REMEDY}")
    return int(pc.sum(batch["length"]).as_py())


def expand_blocks(rows: pa.Table | pa.RecordBatch) -> dict[str, Int64Array]:
    """Columns `block`, `document` and `position`, int64[sum of length], of every token that plan rows score."""
    lengths = column(rows, "length")
    ends = np.cumsum(lengths)
    inside = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    return {
        "block": np.repeat(column(rows, "block"), lengths),
        "document": np.repeat(column(rows, "document"), lengths),
        "position": np.repeat(column(rows, "start"), lengths) + inside,
    }


def column(rows: pa.Table | pa.RecordBatch, name: str) -> Int64Array:
    """One integer column of a table as int64[rows]."""
    values: Int64Array = rows[name].to_numpy().astype(np.int64, copy=False)
    return values


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


def _version(metadata: Mapping[str, Any]) -> int:
    """Schema version of a plan with this metadata: a release that does not know a key must not score by it."""
    if "blocks_per_document" in metadata:
        return PARTIAL_SCHEMA_VERSION
    return LIMITED_SCHEMA_VERSION if "visible_tokens" in metadata else SCHEMA_VERSION


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
