"""The file of a scoring plan: its columns and metadata, written whole and checked before anything is sized by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokenbounds.errors import ScoreError
from tokenbounds.files import atomic_path
from tokenbounds.parquet_pages import check_pages
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
    """A plan's numbers; its rows stay in its file, from which they are read in batches.

    There is one row per block (`PLAN_SCHEMA`), in corpus order. A block scores the tokens `start … start + length - 1`
    of its document; its window also predicts, without counting them, the `context` tokens before `start`. So the
    window's inputs are the tokens `start - context - 1 … start + length - 2`, where token -1 is `start_id`. `draws`
    says how often the block was drawn (1 if everything is scored).

    Attributes
    ----------
    path
        The plan's file.
    rows
        Number of rows.
    group_shards
        The first and the last shard in each row group of the file.
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

    path: Path
    rows: int
    group_shards: tuple[tuple[int, int], ...]
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

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the rows, or some of their columns, in memory that does not grow with the plan.

        Raises
        ------
        ScoreError
            If the file is damaged.
        """
        yield from self._read(columns, range(len(self.group_shards)))

    def iter_shard(self, shard: int) -> Iterator[pa.RecordBatch]:
        """Stream the rows of one shard, in corpus order; possibly none.

        Raises
        ------
        ScoreError
            If the plan has no such shard, or the file is damaged.
        """
        if not 0 <= shard < self.shards:
            raise ScoreError(f"the plan has shards 0 to {self.shards - 1}, not {shard}. Ask for one of those.")
        groups = [group for group, (first, last) in enumerate(self.group_shards) if first <= shard <= last]
        for batch in self._read(None, groups):
            yield batch.filter(pc.equal(batch["shard"], shard))

    def shard(self, shard: int) -> pa.Table:
        """The rows of `iter_shard`, whole."""
        return pa.Table.from_batches(self.iter_shard(shard), schema=PLAN_SCHEMA)

    @property
    def table(self) -> pa.Table:
        """All rows with the file's metadata, read whole: 36 bytes each."""
        return pa.Table.from_batches(self.iter_batches(), schema=pq.read_schema(self.path))

    def columns(self, *names: str) -> tuple[Int64Array, ...]:
        """Some columns, whole, int64[rows] each."""
        batches = [[column(batch, name) for name in names] for batch in self.iter_batches(names)]
        return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))

    def _read(self, columns: Sequence[str] | None, groups: Iterable[int]) -> Iterator[pa.RecordBatch]:
        try:
            with pq.ParquetFile(self.path, pre_buffer=False, page_checksum_verification=True) as file:
                yield from file.iter_batches(_BLOCKS_PER_BATCH, list(groups), list(columns) if columns else None)
        except (OSError, pa.ArrowException) as error:
            raise ScoreError(f"{self.path} cannot be read as a plan ({error}). {_REMEDY}") from error


def plan_version(metadata: Mapping[str, Any]) -> int:
    """Schema version of a plan with this metadata: a release that does not know a key must not score by it."""
    if "blocks_per_document" in metadata:
        return PARTIAL_SCHEMA_VERSION
    return LIMITED_SCHEMA_VERSION if "visible_tokens" in metadata else SCHEMA_VERSION


def write_plan(table: pa.Table, path: Path | str, *, manifest_sha256: str) -> None:
    """Write a table of `plan_scoring` as Parquet, atomically, bound to the corpus manifest it was made for."""
    metadata = {**(table.schema.metadata or {}), b"manifest_sha256": manifest_sha256.encode()}
    schema = table.schema.with_metadata(metadata)
    with atomic_path(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            writer.write_table(table.replace_schema_metadata(metadata))
            writer.add_key_value_metadata({SEAL_KEY: BLANK_SEAL})
        seal(temporary)


def read_plan(path: Path | str, tokens: int | None = None) -> Plan:
    """Read a plan's metadata, and check its rows, a batch at a time.

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
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            values = _read_metadata(path, file.schema_arrow)
            rows = sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
            _check_numbers(path, values, rows, tokens)
            check_pages(path, ScoreError)
            group_shards = _check_groups(path, file, values)
    except (OSError, pa.ArrowException) as error:
        raise ScoreError(f"{path} cannot be read as a plan ({error}). {_REMEDY}") from error
    return Plan(path=path, rows=rows, group_shards=group_shards, sha256=sha256, **values)


def _check_groups(path: Path, file: pq.ParquetFile, values: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """The first and the last shard of each row group; reading ends at the first row that its corpus cannot have."""
    scored, shard, found = 0, 0, []
    for group in range(file.num_row_groups):
        first = None
        for batch in file.iter_batches(_BLOCKS_PER_BATCH, [group]):
            batch.validate(full=True)
            if any(column.null_count for column in batch.columns):
                raise ScoreError(f"{path} has empty cells. {_REMEDY}")
            scored += _check_rows(path, batch, values)
            if scored > values["tokens"]:
                raise ScoreError(f"{path} scores more tokens than the {values['tokens']} of its corpus. {_REMEDY}")
            shards = column(batch, "shard")
            if np.diff(shards, prepend=shard).min(initial=0) < 0:
                raise ScoreError(f"{path}: column shard decreases. {_REMEDY}")
            first, shard = int(shards[0]) if first is None else first, int(shards[-1])
        found.append((shard if first is None else first, shard))
    return tuple(found)


def _read_metadata(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """What `Plan` contains besides its table and hash."""
    metadata = {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (schema.metadata or {}).items()
    }
    optional = [key for key in _OPTIONAL_KEYS if key in metadata]
    expected = plan_version(metadata)
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
