"""The score files: Parquet with one row per scored token, and readers that trust nothing.

A shard file holds exactly the tokens that its plan gives the shard, sorted by document and position. Every reader
checks that while it streams, so a lost, repeated or moved row cannot enter a certificate.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.errors import ScoreError
from tokenbounds.files import atomic_path
from tokenbounds.parquet_pages import check_pages
from tokenbounds.scores.batches import group_rows, read_batches
from tokenbounds.scores.checks import KEYS, PlannedRows, PlanPieces, check_alphas, check_increasing, check_values
from tokenbounds.scores.plan_file import Plan, column
from tokenbounds.scores.provenance import CROSS_ENTROPY_FIELD, ENTROPY_FIELD, Provenance
from tokenbounds.seals import BLANK_SEAL, SEAL_KEY, seal

_ROWS_PER_GROUP = 1 << 20
_QUEUED_BATCHES = 4


class ScoreWriter:
    """Writes record batches from a background thread, so that writing overlaps with computing."""

    def __init__(self, path: Path, provenance: Provenance) -> None:
        schema = provenance.schema.with_metadata(provenance.to_metadata())
        # Chosen for reading: losses are nearly incompressible, so they are stored plainly; positions as steps.
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression={name: "none" if name == "nll_bits" else "zstd" for name in schema.names},
            use_dictionary=[name for name in schema.names if name not in ("position", "nll_bits")],
            column_encoding={"position": "DELTA_BINARY_PACKED"},
            write_page_checksum=True,
        )
        self._queue: queue.Queue[pa.RecordBatch | None] = queue.Queue(_QUEUED_BATCHES)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="score-writer", daemon=True)
        self._thread.start()

    def write(self, batch: pa.RecordBatch) -> None:
        """Queue a batch; an error of an earlier write is raised here."""
        self._raise_failure()
        self._queue.put(batch)

    def close(self) -> None:
        """Write what is queued and the footer."""
        self.abandon()
        self._raise_failure()

    def abandon(self) -> None:
        """Stop the thread and close the file without raising its errors."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        """Take batches until None. After a failure go on taking, so that the producer never blocks."""
        pending: list[pa.RecordBatch] = []
        rows = 0
        while (batch := self._queue.get()) is not None:
            if self._failure is not None:
                continue
            pending.append(batch)
            rows += batch.num_rows
            if rows >= _ROWS_PER_GROUP:
                self._attempt(pending)
                pending, rows = [], 0
        if pending and self._failure is None:
            self._attempt(pending)
        try:
            self._writer.add_key_value_metadata({SEAL_KEY: BLANK_SEAL})
            self._writer.close()
        except BaseException as error:
            self._failure = self._failure or error

    def _attempt(self, pending: list[pa.RecordBatch]) -> None:
        try:
            table = pa.Table.from_batches(pending).replace_schema_metadata(self._writer.schema.metadata)
            self._writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
        except BaseException as error:
            self._failure = error


@contextmanager
def score_writer(path: Path | str, provenance: Provenance) -> Iterator[ScoreWriter]:
    """Write one shard's scores; `path` appears only if the block ends without an error.

    Raises
    ------
    TokenboundsError
        If the system refuses the write.
    """
    with atomic_path(path) as temporary:
        writer = ScoreWriter(temporary, provenance)
        try:
            yield writer
            writer.close()
            seal(temporary)
        finally:
            writer.abandon()


@dataclass(frozen=True)
class _ScoreFile:
    path: Path
    rows: int
    provenance: Provenance
    sealed: bool  # whether it carries a digest of its own


@dataclass(frozen=True)
class Scores:
    """The scores of one message on one corpus, over all shard files.

    Attributes
    ----------
    parts
        The shard files, in order of shards and hence in corpus order.
    plan
        What the rows are checked against, if given.
    centres
        Name of the column that is read where entropies are asked for (`with_centres`).
    """

    parts: tuple[_ScoreFile, ...]
    plan: Plan | None
    centres: str = ENTROPY_FIELD.name

    @property
    def files(self) -> tuple[Path, ...]:
        """Paths in order of shards."""
        return tuple(part.path for part in self.parts)

    @property
    def rows(self) -> int:
        """Number of scored tokens over all files."""
        return sum(part.rows for part in self.parts)

    @property
    def provenance(self) -> Provenance:
        """Provenance common to all files; `shard` is the first file's."""
        return self.parts[0].provenance

    def iter_batches(self, columns: Sequence[str] | None = None, batch_rows: int = 1 << 18) -> Iterator[pa.RecordBatch]:
        """Stream the scores in corpus order, in memory that does not grow with them, checking every row.

        With a plan each row must be the token that the plan has next; without one, document and position must
        increase strictly.

        Parameters
        ----------
        columns
            Names of columns; None for all.
        batch_rows
            Most rows per batch.

        Raises
        ------
        ScoreError
            If rows are missing, repeated, out of order or belong to another plan, or a loss is negative or not finite,
            or a file is damaged; the message names the file.
        """
        names = self.provenance.schema.names
        wanted = list(columns) if columns is not None else names
        read = self._to_read(wanted)
        last = (-1, -1)
        for part in self.parts:
            planned = None
            if self.plan is not None:
                planned = PlannedRows(self.plan.iter_shard(part.provenance.shard), part.path)
            for batch in read_batches(part.path, read, batch_rows):
                if planned is not None:
                    planned.check(batch)
                else:
                    last = check_increasing(batch, last, part.path)
                self._check_values(batch, part.path)
                yield self._select(batch, wanted)

    def iter_pieces(self, columns: Sequence[str], batch_rows: int = 1 << 18) -> Iterator[Iterator[pa.RecordBatch]]:
        """Stream the scores as pieces that can be read in any order, or at one time by different threads.

        A piece is a row group, its rows checked as `iter_batches` does, and has the blocks of the plan that it needs.
        Without a plan, which is needed to check a piece by itself, everything is one piece; so it is if some group has
        more rows than any that `ScoreWriter` writes.
        """
        groups = {part.path: group_rows(part.path) for part in self.parts}
        if self.plan is None or max(max(rows, default=0) for rows in groups.values()) > _ROWS_PER_GROUP:
            yield self.iter_batches(columns, batch_rows)
            return
        for part in self.parts:
            planned = PlanPieces(self.plan.iter_shard(part.provenance.shard))
            for group, rows in enumerate(groups[part.path]):
                batches, skipped = planned.take(rows)
                checker = PlannedRows(iter(batches), part.path, skipped)
                yield self._read_piece(part.path, group, checker, list(columns), batch_rows)

    def _check_values(self, batch: pa.RecordBatch, path: Path) -> None:
        check_values(batch, self.provenance.vocabulary_size, path)
        check_alphas(batch, self.provenance.alphas, path)

    def _read_piece(
        self, path: Path, group: int, checker: PlannedRows, wanted: list[str], batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        for batch in read_batches(path, self._to_read(wanted), batch_rows, [group]):
            checker.check(batch)
            self._check_values(batch, path)
            yield self._select(batch, wanted)

    def with_centres(self, centre_order: int) -> Scores:
        """The same scores, with cross-entropies in the place of entropies, as a certificate of this order reads them.

        Raises
        ------
        ScoreError
            If there are none under the predictions of n-grams of this order.
        """
        found = self.provenance.centre_order
        if found != centre_order:
            what = f"those of order {found}" if found else "none"
            raise ScoreError(
                f"{self.files[0]} should hold cross-entropies under n-grams of order {centre_order} (centre_order), "
                f"and has {what}. Score again."
            )
        return replace(self, centres=CROSS_ENTROPY_FIELD.name)

    def _stored(self, name: str) -> str:
        return self.centres if name == ENTROPY_FIELD.name else name

    def _to_read(self, wanted: Sequence[str]) -> list[str]:
        """The columns of the files that are needed to check rows and to hand out the wanted ones."""
        needed = {*map(self._stored, wanted), *KEYS}
        return [name for name in self.provenance.schema.names if name in needed]

    def _select(self, batch: pa.RecordBatch, wanted: Sequence[str]) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([batch[self._stored(name)] for name in wanted], names=list(wanted))

    def check(self) -> int:
        """Read everything once, with all checks of `iter_batches`; return the number of rows."""
        return sum(batch.num_rows for batch in self.iter_batches())


def open_scores(
    paths: Sequence[Path | str],
    *,
    plan: Plan | None = None,
    message_sha256: str | None = None,
    manifest_sha256: str | None = None,
) -> Scores:
    """Open the shard files of one scoring and check that they belong together.

    Parameters
    ----------
    paths
        The shard files, in any order.
    plan
        If given, the files must be exactly the plan's shards, made with this plan and its manifest, with the planned
        number of rows; `Scores.iter_batches` then also checks every row.
    message_sha256, manifest_sha256
        If given, what the files must have been made from.

    Raises
    ------
    ScoreError
        If a file is missing, damaged, of an unknown version or made from something else; the message names it.
    """
    if not paths:
        raise ScoreError("no score files were given. Run score_shard for every shard of the plan.")
    parts = tuple(sorted((_open_part(Path(path)) for path in paths), key=lambda part: part.provenance.shard))
    _check_one_origin(parts)
    wanted = {"message_sha256": message_sha256, "manifest_sha256": manifest_sha256}
    if plan is not None:
        wanted["plan_sha256"] = plan.sha256
        wanted["manifest_sha256"] = manifest_sha256 or plan.manifest_sha256
        _check_shards(parts, plan)
    for name, value in wanted.items():
        found = getattr(parts[0].provenance, name)
        if value is not None and found != value:
            what = name.removesuffix("_sha256")
            raise ScoreError(f"{parts[0].path} was made with {what} {found[:12]}…, not {value[:12]}…. Score again.")
    return Scores(parts, plan)


def _open_part(path: Path) -> _ScoreFile:
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            sealed = SEAL_KEY.encode() in (file.metadata.metadata or {})
    except (OSError, pa.ArrowException) as error:
        raise ScoreError(f"{path} cannot be read as scores ({error}). Score this shard again.") from error
    provenance = Provenance.from_metadata(schema.metadata, path)
    if not schema.equals(provenance.schema):
        names = ", ".join(provenance.schema.names)
        raise ScoreError(f"{path} does not have the columns {names}. Score this shard again.")
    check_pages(path, ScoreError)
    return _ScoreFile(path, rows, provenance, sealed)


def _check_one_origin(parts: tuple[_ScoreFile, ...]) -> None:
    first = parts[0]
    for before, part in itertools.pairwise(parts):
        if part.provenance.shard == before.provenance.shard:
            raise ScoreError(f"{before.path} and {part.path} are both shard {part.provenance.shard}. Remove one.")
        if replace(part.provenance, shard=first.provenance.shard) != first.provenance:
            ours, theirs = asdict(part.provenance), asdict(first.provenance)
            differing = ", ".join(name for name in ours if name != "shard" and ours[name] != theirs[name])
            raise ScoreError(f"{part.path} differs from {first.path} in {differing}. Score both with the same inputs.")


def _check_shards(parts: tuple[_ScoreFile, ...], plan: Plan) -> None:
    found = {part.provenance.shard for part in parts}
    # The plan may claim any number of shards: no more are searched for than can be named in a line.
    missing = list(itertools.islice((shard for shard in range(plan.shards) if shard not in found), 10))
    if missing:
        raise ScoreError(f"shards {missing} of {plan.shards} are missing next to {parts[0].path}. Score them too.")
    planned = np.zeros(plan.shards, dtype=np.int64)  # tokens of each shard
    for batch in plan.iter_batches(("shard", "length")):
        np.add.at(planned, column(batch, "shard"), column(batch, "length"))
    for part in parts:
        if part.provenance.shard >= plan.shards:
            raise ScoreError(f"{part.path} is shard {part.provenance.shard}, but the plan has {plan.shards}.")
        expected = int(planned[part.provenance.shard])
        if part.rows != expected:
            raise ScoreError(f"{part.path} holds {part.rows} tokens, the plan {expected}. Score this shard again.")
