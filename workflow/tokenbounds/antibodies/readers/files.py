"""Text files, plain or gzip, as bounded lines; for a file of another kind the error says what it is."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tokenbounds.errors import CorpusError

LONGEST_LINE = 1 << 26
_GZIP_MAGIC = b"\x1f\x8b"
_HEAD_BYTES = 512
_DECOMPRESS = "Decompress it, or compress it by gzip."
_EXPORT = "Write it as a text table (CSV or TSV)."
_OTHER_KINDS = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "Unpack it, or save its sheet as CSV."),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "Save its sheet as CSV."),
    (b"BZh", "compressed by bzip2", _DECOMPRESS),
    (b"\xfd7zXZ\0", "compressed by xz", _DECOMPRESS),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", _DECOMPRESS),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _DECOMPRESS),
    (b"\x1f\x9d", "compressed by compress (.Z)", _DECOMPRESS),
    (b"\x04\x22\x4d\x18", "compressed by LZ4", _DECOMPRESS),
    (b"PAR1", "a Parquet file", _EXPORT),
    (b"ARROW1", "an Arrow file", _EXPORT),
    (b"SQLite format 3\0", "an SQLite database", _EXPORT),
    (b"\x89HDF\r\n", "an HDF5 file", _EXPORT),
    (b"%PDF-", "a PDF document", _EXPORT),
    (b"\xff\xfe", "text in UTF-16", "Save it in UTF-8."),
    (b"\xfe\xff", "text in UTF-16", "Save it in UTF-8."),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Fetch it by `git lfs pull`."),
    (b"<!doctype html", "a web page", "Download the file itself."),
    (b"<html", "a web page", "Download the file itself."),
)
_TAR = slice(257, 262)


@contextmanager
def open_lines(path: Path) -> Iterator[Iterator[str]]:
    """Open a text file, plain or gzip, as bounded lines with their ends; any failure is an error that names it.

    Raises
    ------
    CorpusError
        If it cannot be read, is a file of another kind, is not UTF-8, or has a line beyond 64 MiB.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
        with gzip.open(path, "rb") if compressed else path.open("rb") as binary:
            _refuse_other_kinds(binary.peek(_HEAD_BYTES)[:_HEAD_BYTES], path)
            yield _bounded(io.TextIOWrapper(binary, encoding="utf-8-sig", newline=""), path)
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"cannot read {path}: {error}. Replace the file with an intact one.") from error


def _refuse_other_kinds(head: bytes, path: Path) -> None:
    """Name a file that is not text by its first bytes."""
    begun = head.lstrip().lower()
    for magic, kind, remedy in _OTHER_KINDS:
        if head.startswith(magic) or (magic.startswith(b"<") and begun.startswith(magic)):
            raise CorpusError(f"{path} is {kind}. {remedy}")
    if head[_TAR] == b"ustar":
        raise CorpusError(f"{path} is a tar archive. Unpack it, and name the files in it.")


def _bounded(stream: TextIO, path: Path) -> Iterator[str]:
    number = 0
    try:
        while line := stream.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise CorpusError(f"{path}:{number} has more than {LONGEST_LINE} characters. Is it a text file?")
            yield line
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text after line {number} ({error}). Convert it to UTF-8.") from error
