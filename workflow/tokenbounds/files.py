"""Atomic writes, hashes and canonical JSON: every file of the pipeline is written through this module."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tokenbounds.errors import TokenboundsError

_CHUNK_BYTES = 1 << 20
_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write to; it becomes `path` only if the block succeeds.

    The data are synced to disk before the rename, so that a killed job or a full disk leaves either the whole file or
    none. The file gets the permissions of any file that the user creates, however strict the library is that wrote it.

    Raises
    ------
    TokenboundsError
        If the system refuses the write (no space, no permission); the message names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        usual_mode = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        temporary.chmod(usual_mode)
        _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise TokenboundsError(f"cannot write {path}: {error}. Free space, or choose another folder.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def canonical_json(value: Any, *, indent: int | None = None) -> str:
    """Render `value` with sorted keys and no NaN, so that equal values have equal text."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, sort_keys=True, indent=indent, separators=separators, allow_nan=False, ensure_ascii=False)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as canonical, indented JSON with a final newline, atomically."""
    write_bytes(path, (canonical_json(value, indent=2) + "\n").encode())


def parse_json(text: str | bytes) -> Any:
    """Parse JSON in which no object names a key twice: readers differ in which of the two they take.

    Raises
    ------
    ValueError
        If it is not JSON, names a key twice, is nested too deeply, or has numbers with too many digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return found


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises
    ------
    TokenboundsError
        If the file is missing, is not JSON, or names a key twice.
    """
    path = Path(path)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TokenboundsError(f"{path} does not exist. Run the rule that makes it, or correct the path.") from error
    except ValueError as error:
        raise TokenboundsError(f"{path} is not valid JSON ({error}). Make it again.") from error


def check_name(path: Path, error_type: type[TokenboundsError]) -> None:
    """Refuse what no file or folder can be called; whether there is one does not matter.

    Raises
    ------
    TokenboundsError
        Of the given type, if a part of the name is too long or holds a zero byte, or its folder cannot be read.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise error_type(f"{path!s:.200} can name no file: {reason}.") from error


def check_no_pointer(path: Path | str, error_type: type[TokenboundsError] = TokenboundsError) -> None:
    """Refuse a Git LFS file that was never fetched: a pointer of three lines in place of the data.

    Raises
    ------
    TokenboundsError
        Of the given type, if `path` is a pointer, no file, or cannot be read.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():  # to open a pipe may wait for ever
            raise error_type(f"{path} is no file. Name or restore the file itself.")
        with Path(path).open("rb") as stream:
            start = stream.read(len(_POINTER))
    except OSError as error:
        raise error_type(f"cannot read {path}: {error.strerror or error}.") from error
    if start == _POINTER:
        raise error_type(f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull`.")


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in chunks.

    Raises
    ------
    TokenboundsError
        If the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise TokenboundsError(f"cannot read {path}: {error.strerror or error}.") from error
    return digest.hexdigest()


def relative_path(path: Path, folder: Path) -> str:
    """A path as seen from a folder, with forward slashes; links are followed first."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
