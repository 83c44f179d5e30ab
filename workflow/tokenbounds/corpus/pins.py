"""Pinned files: the list of all files of a corpus by reference, made once and checked when a file is read.

A file is on disk, or anywhere that fsspec reads by ranges: `https://…`, `hf://datasets/org/name@revision/…`, `s3://…`.
Of Parquet only the footer and the row groups with drawn rows are read, of Arrow files with a footer the batches with
drawn rows, of JSON lines only the drawn lines and a few around them; compressed JSON lines and Arrow streams are read
from their beginning to the last drawn row.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.corpus.arrow_rows import arrow_rows, count_rows
from tokenbounds.corpus.source_files import check_plain, find_files, hash_blocks
from tokenbounds.errors import CorpusError, TokenboundsError
from tokenbounds.files import parse_json, read_json, sha256_bytes, write_json

SCHEMA_VERSION = 1
PINS_NAME = "pins.json"
MOST_ROWS = 1 << 48
_SUFFIXES = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
}
_LINES_PER_OFFSET = 4096
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_BATCH_ROWS = 64

Kind = Literal["parquet", "jsonl", "arrow"]


@dataclass(frozen=True)
class PinnedFile:
    """One file.

    Attributes
    ----------
    path
        Relative to the list's folder, absolute, or an address that fsspec opens.
    size_bytes, rows
        Its size and its number of documents: rows of Parquet and Arrow, lines of JSON that are not blank.
    blocks_sha256
        SHA-256 of a file on disk, above 4 MiB of 64 blocks of 64 KiB from end to end: files of any size are checked
        whenever they are read. None for one elsewhere.
    etag
        The server's name for this version of it, where it gives one.
    offsets
        Of JSON lines that are not compressed: where every 4096th document begins, bytes.
    batches
        Of Arrow: rows of each batch.
    """

    path: str
    size_bytes: int
    rows: int
    blocks_sha256: str | None = None
    etag: str | None = None
    offsets: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pins:
    """All files of a corpus, in the order in which their rows are numbered."""

    kind: Kind
    files: tuple[PinnedFile, ...]

    @property
    def rows(self) -> int:
        """D: documents of the whole corpus."""
        return sum(file.rows for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """The list as JSON values, without absent entries."""
        files = [{key: value for key, value in asdict(file).items() if value not in (None, ())} for file in self.files]
        return {"schema_version": SCHEMA_VERSION, "kind": self.kind, "rows": self.rows, "files": files}


def pin_files(patterns: Sequence[str], out: Path) -> Pins:
    """List files with their sizes, hashes and rows, and write the list.

    Parameters
    ----------
    patterns
        Files, folders or patterns of Parquet, Arrow or JSON lines (plain, `.gz`, `.zst`) on disk, or addresses with `://`,
        which may hold patterns where their server lists folders. One kind of file.
    out
        The list, JSON; paths of files below its folder are written relative to it.

    Raises
    ------
    CorpusError
        If nothing matches, a file cannot be read, or kinds are mixed.
    """
    names = [name for pattern in patterns for name in _expand(pattern)]
    kinds = {_kind(name) for name in names}
    if len(kinds) != 1:
        raise CorpusError(f"the files are of {len(kinds)} kinds. Pin files of one kind: Parquet, Arrow or JSON lines.")
    kind = kinds.pop()
    files = tuple(_pin(name, kind, out.parent) for name in dict.fromkeys(names))
    pins = Pins(kind, files)
    if not 0 < pins.rows <= MOST_ROWS:
        raise CorpusError(f"the files have {pins.rows} rows in all. Pin files that hold documents.")
    write_json(out, pins.to_dict())
    return pins


def read_pins(path: Path | str) -> Pins:
    """Read a list of pinned files.

    Raises
    ------
    CorpusError
        If it cannot be read, is of another version, or does not add up.
    """
    try:
        raw = read_json(path)
    except TokenboundsError as error:
        raise CorpusError(f"{error} (`tokenbounds pin` writes such a list.)") from error
    try:
        if raw["schema_version"] != SCHEMA_VERSION or raw["kind"] not in get_args(Kind):
            raise ValueError("another version, or another kind of files")
        lists = [{name: tuple(file.get(name, ())) for name in ("offsets", "batches")} for file in raw["files"]]
        files = tuple(PinnedFile(**{**file, **more}) for file, more in zip(raw["files"], lists, strict=True))
        pins = Pins(raw["kind"], files)
        numbers = [number for file in files for number in (file.size_bytes, file.rows, *file.offsets, *file.batches)]
        texts = [file.path for file in files]
        if not all(type(number) is int and 0 <= number <= MOST_ROWS for number in numbers):
            raise ValueError("a number is out of its range")
        if not all(isinstance(text, str) and text.isprintable() for text in texts) or raw["rows"] != pins.rows:
            raise ValueError("its rows do not add up, or a path is no text")
        if raw["kind"] == "arrow" and any(sum(file.batches) != file.rows for file in files):
            raise ValueError("rows of batches do not add up")
        if not 0 < pins.rows <= MOST_ROWS:
            raise ValueError("it lists no row")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorpusError(
            f"{path} is not a list of pinned files ({error}). Write it again: tokenbounds pin."
        ) from error
    return pins


def read_rows(file: PinnedFile, kind: Kind, rows: Sequence[int], field: str, folder: Path) -> Iterator[str]:
    """Yield the texts of some rows of a file, in increasing order; nothing else of it is kept.

    Raises
    ------
    CorpusError
        If the file is not the pinned one, or a row has no text under `field`.
    """
    name = file.path if "://" in file.path else str(folder / file.path)
    try:
        with _open(name) as stream:
            _check_same(file, name, stream)
            if kind == "parquet":
                found = _parquet_rows(stream, rows, field)
            elif kind == "arrow":
                found = arrow_rows(stream, file.batches, rows, field)
            else:
                found = _json_rows(stream, file, rows, field)
            for row, text in zip(rows, found, strict=True):
                if not isinstance(text, str):
                    raise CorpusError(f"{name}:{row} has no text under '{field}'. Set the source's 'field'.")
                yield text
    except (OSError, EOFError, pa.ArrowException, ValueError) as error:
        raise CorpusError(f"cannot read {name}: {error}. Restore it, or pin the files again.") from error


def _expand(pattern: str) -> list[str]:
    """Names of the files that a pattern matches."""
    if "://" not in pattern:
        return [str(path) for path in find_files((pattern,), tuple(_SUFFIXES))]
    if not any(sign in pattern for sign in "*?["):
        return [pattern]
    import fsspec

    system, _, (path,) = fsspec.get_fs_token_paths(pattern, expand=False)
    found = sorted(system.glob(path))
    if not found:
        raise CorpusError(f"{pattern} matches no file. Correct it, or name the files one by one.")
    return [system.unstrip_protocol(name) for name in found]


def _kind(name: str) -> Kind:
    for suffix, kind in _SUFFIXES.items():
        if name.endswith(suffix):
            return cast(Kind, kind)
    raise CorpusError(f"{name} is neither Parquet nor Arrow nor JSON lines. Pin files named {', '.join(_SUFFIXES)}.")


def _pin(name: str, kind: Kind, folder: Path) -> PinnedFile:
    local = "://" not in name
    try:
        if local and kind != "jsonl":
            check_plain(Path(name))
        with _open(name) as stream:
            size, etag = _size(stream), _etag(stream)
            blocks = _hash_blocks(stream, size) if local else None
            offsets: tuple[int, ...] = ()
            batches: tuple[int, ...] = ()
            if kind == "parquet":
                with pq.ParquetFile(stream) as table:
                    rows = int(table.metadata.num_rows)
            elif kind == "arrow":
                batches = count_rows(stream)
                rows = sum(batches)
            else:
                rows, offsets = _count_lines(stream, name)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise CorpusError(f"cannot read {name}: {error}. Replace the file with an intact one.") from error
    return PinnedFile(
        _relative(Path(name), folder) if local else name,
        size,
        rows,
        blocks_sha256=blocks,
        etag=etag,
        offsets=offsets,
        batches=batches,
    )


def _relative(path: Path, folder: Path) -> str:
    """A path as the list names it: relative if it is below the list's folder."""
    inside = path.resolve().is_relative_to(folder.resolve())
    return path.resolve().relative_to(folder.resolve()).as_posix() if inside else str(path.resolve())


@contextmanager
def _open(name: str) -> Iterator[IO[bytes]]:
    """A file as a stream that can seek; one elsewhere is read by ranges."""
    if "://" not in name:
        with Path(name).open("rb") as stream:
            yield stream
        return
    import fsspec

    with ExitStack() as stack:
        try:
            stream = stack.enter_context(fsspec.open(name, "rb").open())
        except (ImportError, ValueError) as error:
            raise CorpusError(f"cannot open {name}: {error}.") from error
        yield stream


def _size(stream: IO[bytes]) -> int:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return size


def _hash_blocks(stream: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    hash_blocks(stream, size, digest)
    stream.seek(0)
    return digest.hexdigest()


def _etag(stream: Any) -> str | None:
    """The server's name for this version of a file, if the stream is one of fsspec's and has it."""
    details = getattr(stream, "details", None) or {}
    etag = details.get("ETag") or details.get("etag")
    return str(etag) if etag else None


def _check_same(file: PinnedFile, name: str, stream: IO[bytes]) -> None:
    size, etag = _size(stream), _etag(stream)
    if size != file.size_bytes or (file.etag and etag and etag != file.etag):
        raise CorpusError(
            f"{name} has changed since it was pinned ({size} bytes, {file.size_bytes} then). Restore it: a corpus by "
            "reference must stay as it was when the draw was fixed."
        )
    if file.blocks_sha256 and _hash_blocks(stream, size) != file.blocks_sha256:
        raise CorpusError(f"{name} has changed since it was pinned: its contents have another SHA-256. Restore it.")


def _parquet_rows(stream: IO[bytes], rows: Sequence[int], field: str) -> Iterator[str | None]:
    wanted = iter(rows)
    row = next(wanted, None)
    with pq.ParquetFile(stream) as table:
        if field not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names)
            raise CorpusError(f"a pinned file has no column '{field}' (it has: {names}). Set the source's 'field'.")
        first = 0  # row number at which the group begins
        for group in range(table.num_row_groups):
            end = first + table.metadata.row_group(group).num_rows
            if row is not None and row < end:
                start = first
                for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[field]):
                    while row is not None and row < start + batch.num_rows:
                        yield batch.column(0)[row - start].as_py()
                        row = next(wanted, None)
                    start += batch.num_rows
            first = end


def _json_rows(stream: IO[bytes], file: PinnedFile, rows: Sequence[int], field: str) -> Iterator[str | None]:
    lines: Iterator[bytes] | None = None
    at = 0  # number of the document that `lines` gives next
    for row in rows:
        step = row // _LINES_PER_OFFSET
        if lines is None or (file.offsets and step * _LINES_PER_OFFSET > at):
            if file.offsets:
                stream.seek(file.offsets[step])
                at = step * _LINES_PER_OFFSET
            lines = (line for line in _decompressed(stream, file.path) if line.strip())
        for line in lines:
            at += 1
            if at == row + 1:
                found = parse_json(line)
                yield found.get(field) if isinstance(found, dict) else None
                break


def _count_lines(stream: IO[bytes], name: str) -> tuple[int, tuple[int, ...]]:
    """Number of documents, and where every 4096th begins if the file is not compressed."""
    offsets, rows, place = [], 0, 0
    for line in _decompressed(stream, name):
        if line.strip():
            if rows % _LINES_PER_OFFSET == 0:
                offsets.append(place)
            rows += 1
        place += len(line)
    return rows, () if name.endswith(tuple(_CODECS)) else tuple(offsets)


def _decompressed(stream: IO[bytes], name: str) -> IO[bytes]:
    if name.endswith(".gz"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=stream, mode="rb"))
    if name.endswith(".zst"):
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"))
    return stream


def pins_digest(path: Path | str) -> str:
    """SHA-256 of a list's file."""
    return sha256_bytes(Path(path).read_bytes())
