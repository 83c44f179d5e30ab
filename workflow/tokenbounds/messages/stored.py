"""Bytes of large messages that stay in a file: read from it in pieces, or written to it in pieces.

Whatever is shorter than `IN_MEMORY` is plain bytes. Both kinds have a length, and give integers and bytes when they are
indexed and sliced, so that what reads them need not know which it has.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, overload

from tokenbounds.errors import MessageError

IN_MEMORY = 1 << 24
_PIECE_BYTES = 1 << 22


class StoredBytes:
    """Some bytes of an open file, which stay readable if the file is replaced or removed.

    Parameters
    ----------
    file : binary file
        Open for reading; it is closed with the last object that reads it.
    begin, size : int
        Which bytes of it.
    """

    def __init__(self, file: BinaryIO, begin: int, size: int) -> None:
        self._file, self._begin, self._size = file, begin, size

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return self[:]

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> int | bytes:
        """A byte, or those of a slice without steps.

        Raises
        ------
        MessageError
            If the file has become shorter, or cannot be read.
        """
        if isinstance(key, int):
            return self._read(range(self._size)[key], 1)[0]
        start, stop, _ = key.indices(self._size)
        return self._read(start, max(stop - start, 0))

    def part(self, begin: int, size: int) -> StoredBytes:
        """Some of these bytes, still in the file."""
        return StoredBytes(self._file, self._begin + begin, size)

    def _read(self, start: int, count: int) -> bytes:
        chunks = []
        while count:
            try:
                chunk = os.pread(self._file.fileno(), min(count, _PIECE_BYTES), self._begin + start)
            except OSError as error:
                raise MessageError(f"a message's file cannot be read: {error.strerror or error}.") from error
            if not chunk:
                raise MessageError("a message's file became shorter while it was read. Copy or encode it again.")
            chunks.append(chunk)
            start, count = start + len(chunk), count - len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


Data = bytes | StoredBytes


def pieces(data: Data | memoryview) -> Iterator[bytes | memoryview]:
    """All of it, few of the bytes in a file at a time."""
    if isinstance(data, StoredBytes):
        yield from (data[start : start + _PIECE_BYTES] for start in range(0, len(data), _PIECE_BYTES))
    else:
        yield data


def can_store() -> bool:
    """Whether bytes may stay in files: not on systems where threads cannot read an open file side by side."""
    return hasattr(os, "pread")


class ByteSpool:
    """Bytes that are written one after the other; once they are many, they go to a scratch file under `TMPDIR`."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self._file: BinaryIO | None = None

    def append(self, chunk: bytes) -> None:
        """Write some more.

        Raises
        ------
        MessageError
            If the scratch space is full.
        """
        self._size += len(chunk)
        try:
            if self._file is None and self._size > IN_MEMORY and can_store():
                self._file = tempfile.TemporaryFile(prefix="tokenbounds-message-")  # noqa: SIM115
                self._file.writelines(self._chunks)
                self._chunks.clear()
            if self._file is None:
                self._chunks.append(chunk)
            else:
                self._file.write(chunk)
        except OSError as error:
            raise MessageError(
                f"the message's bytes cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}. "
                "Free space, or set TMPDIR."
            ) from error

    def finish(self) -> Data:
        """All that was written."""
        if self._file is None:
            return b"".join(self._chunks)
        try:
            self._file.flush()
        except OSError as error:
            raise MessageError(f"scratch space is full: {error.strerror or error}. Set TMPDIR.") from error
        return StoredBytes(self._file, 0, self._size)
