"""Bounds from any Parquet file of token losses: the mathematics without the pipeline, and without its checks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenbounds.certificates.rows.setting import Setting
from tokenbounds.certificates.rows.tokens import Statement, state_bounds
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError, ScoreError

_BATCH_ROWS = 1 << 18
_MOST_BITS, _MOST_TOKENS = 10**18, 1 << 31  # beyond any file and any tokenizer


@dataclass(frozen=True)
class ExternalScores:
    """Token losses in Parquet files of any layout, one row per token.

    Attributes
    ----------
    files
        The files, in order.
    nll_column
        Name of the column of losses, -ln or -log2 of the true token's probability, before any smoothing.
    rank_column
        Name of the column of the true token's rank, from 1; None if there is none.
    nats
        Whether losses are in nats rather than bits.
    """

    files: tuple[Path, ...]
    nll_column: str = "nll_bits"
    rank_column: str | None = None
    nats: bool = False

    @property
    def rows(self) -> int:
        """Number of tokens.

        Raises
        ------
        ScoreError
            If a file cannot be read or lacks a column.
        """
        seen: dict[tuple[int, int], Path] = {}
        for path in self.files:
            if not path.is_file():
                continue
            identity = (path.stat().st_dev, path.stat().st_ino)
            if identity in seen:
                raise ScoreError(
                    f"{path} and {seen[identity]} are one file: its tokens would count twice. Name it once."
                )
            seen[identity] = path
        return sum(self._rows(path) for path in self.files)

    @property
    def has_ranks(self) -> bool:
        """Whether top-k errors can be bounded."""
        return self.rank_column is not None

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the columns `nll_bits` and `rank` under these names.

        Raises
        ------
        ScoreError
            If a file is damaged or has empty cells.
        """
        names = {"nll_bits": self.nll_column, "rank": self.rank_column}
        wanted = {name: names[name] for name in columns or ("nll_bits",)}
        for path in self.files:
            try:
                with pq.ParquetFile(path, pre_buffer=False) as file:
                    for batch in file.iter_batches(_BATCH_ROWS, columns=list(wanted.values())):
                        yield self._renamed(batch, wanted, path)
            except (OSError, pa.ArrowException) as error:
                raise ScoreError(f"{path} cannot be read ({error}). Write it again.") from error

    def _rows(self, path: Path) -> int:
        try:
            with pq.ParquetFile(path) as file:
                schema, rows = file.schema_arrow, int(file.metadata.num_rows)
        except (OSError, pa.ArrowException) as error:
            raise ScoreError(f"{path} cannot be read as Parquet ({error}). Check the path.") from error
        for column in (self.nll_column, self.rank_column):
            if column is None:
                continue
            if column not in schema.names:
                raise ScoreError(f"{path} has no column '{column}', only {', '.join(schema.names)}. Name one of these.")
            found = schema.field(column).type
            if not (pa.types.is_integer(found) or (pa.types.is_floating(found) and column == self.nll_column)):
                raise ScoreError(f"{path}: the column '{column}' holds {found}. Write one number per token.")
        return rows

    def _renamed(self, batch: pa.RecordBatch, wanted: dict[str, str | None], path: Path) -> pa.RecordBatch:
        arrays = []
        for name, column in wanted.items():
            values = batch[column]
            if values.null_count:
                raise ScoreError(f"{path}: column '{column}' has empty cells. Fill or drop those rows.")
            arrays.append(pc.divide(values, math.log(2.0)) if name == "nll_bits" and self.nats else values)
        return pa.RecordBatch.from_arrays(arrays, names=list(wanted))


@dataclass(frozen=True)
class ArrayScores:
    """Token losses that are in memory.

    Attributes
    ----------
    nll_bits
        Raw losses, float64 [m], bits.
    rank
        Rank of each true token, int64 [m], from 1; None if unknown.
    """

    nll_bits: npt.NDArray[np.float64]
    rank: npt.NDArray[np.int64] | None = None

    @property
    def rows(self) -> int:
        """Number of tokens."""
        return len(self.nll_bits)

    @property
    def has_ranks(self) -> bool:
        """Whether top-k errors can be bounded."""
        return self.rank is not None

    def iter_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the columns `nll_bits` and `rank`, as `ExternalScores.iter_batches` does."""
        wanted = {name: getattr(self, name) for name in columns or ("nll_bits",)}
        for start in range(0, self.rows, _BATCH_ROWS):
            arrays = [pa.array(values[start : start + _BATCH_ROWS]) for values in wanted.values()]
            yield pa.RecordBatch.from_arrays(arrays, names=list(wanted))


def bound_scores(
    scores: ExternalScores | ArrayScores, message_bits: int, vocabulary_size: int, spec: BoundsSpec
) -> Statement:
    """State every bound for token losses that someone else computed.

    Nothing ties the losses to a message or a corpus here: the caller who states `message_bits` vouches for the file
    that decodes to the scored model, and for every token having been scored once, in corpus order.

    Parameters
    ----------
    scores
        The losses.
    message_bits
        C, bits.
    vocabulary_size
        V.
    spec
        Failure probability, metrics, bounds and grids; without a rank column only the loss is bounded.

    Raises
    ------
    CertificateError
        If a bound needs more than losses and ranks, or a size is impossible for a message or a vocabulary.
    ScoreError
        If a file or a value is not usable.
    """
    if not (0 <= message_bits <= _MOST_BITS and 2 <= vocabulary_size <= _MOST_TOKENS):
        raise CertificateError(
            f"a message has 0 to {_MOST_BITS:,} bits, and a vocabulary 2 to {_MOST_TOKENS:,} tokens. Give such numbers."
        )
    unusable = [bound for bound in spec.bounds if not bound.is_single]
    if unusable:
        raise CertificateError(
            f"bound '{unusable[0]}' needs score files with documents and blocks, of a study. Name other bounds."
        )
    if not scores.has_ranks:
        spec = replace(spec, top_k=())
    return state_bounds(scores, Setting(spec, scores.rows, vocabulary_size, None), message_bits)
