"""Bytes and floats without loss: coded where that saves anything, raw where it does not.

Bytes go in blocks; each is a static code with a table of its own, or raw. Floats become the narrowest of float16,
bfloat16 and float32 that holds all of an array exactly, cut into planes of bytes, high bytes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.static import decode_static, encode_static
from tokenbounds.messages.container import read_varint, write_varint
from tokenbounds.messages.stored import Data

_BLOCK = 1 << 22
_WIDTHS = (2, 2, 4)  # bytes of float16, bfloat16, float32


def encode_bytes(values: np.ndarray) -> bytes:
    """Code a uint8 array [n]; n is not written.

    Layout of a block of up to 2^22 bytes: varint 0 and the bytes, or varint length of a static code, and that.
    """
    return b"".join(encode_byte_arrays([values]))


def encode_byte_arrays(arrays: Iterable[np.ndarray]) -> Iterator[bytes]:
    """Yield the code of uint8 arrays [n] that follow one another, block by block; one array is taken at a time."""
    waiting, count = list[np.ndarray](), 0
    for array in arrays:
        start = 0
        while array.size - start >= _BLOCK - count:
            end = start + _BLOCK - count
            yield _encode_block(np.concatenate([*waiting, array[start:end]]))
            waiting, count, start = [], 0, end
        if start < array.size:
            waiting.append(array[start:].copy())
            count += array.size - start
    if count:
        yield _encode_block(np.concatenate(waiting))


def _encode_block(block: np.ndarray) -> bytes:
    coded = encode_static(block.astype(np.int64), 256)
    head = write_varint(len(coded))
    return head + coded if len(head) + len(coded) <= block.size else b"\0" + block.tobytes()


class ByteReader:
    """Decodes bytes that `encode_bytes` wrote, a block at a time.

    Parameters
    ----------
    data : bytes
    offset : int
        Where they begin.
    count : int
        How many there are.

    Attributes
    ----------
    end
        The offset after them, found without decoding them.

    Raises
    ------
    MessageError
        If the bytes are cut off or detectably damaged.
    """

    def __init__(self, data: Data, offset: int, count: int) -> None:
        self._data = data
        self._blocks: list[tuple[int, int, int, bool]] = []  # where it begins, bytes there, bytes it decodes to, coded?
        for start in range(0, count, _BLOCK):
            wanted = min(_BLOCK, count - start)
            coded, offset = read_varint(data, offset)
            size = coded or wanted
            if size > min(len(data) - offset, wanted):
                raise MessageError(
                    "coded bytes are longer than the part that holds them, or than they would be uncoded."
                )
            self._blocks.append((offset, size, wanted, bool(coded)))
            offset += size
        self.end = offset
        self._next, self._left = 0, np.zeros(0, dtype=np.uint8)

    def read(self, count: int) -> np.ndarray:
        """The next bytes, uint8 [count], of those that there are."""
        found = []
        while count:
            if not self._left.size:
                begin, size, wanted, coded = self._blocks[self._next]
                block = self._data[begin : begin + size]
                self._left = (
                    decode_static(block, wanted, 256).astype(np.uint8) if coded else np.frombuffer(block, np.uint8)
                )
                self._next += 1
            found.append(self._left[:count])
            self._left = self._left[found[-1].size :]
            count -= found[-1].size
        return np.concatenate(found) if found else np.zeros(0, dtype=np.uint8)


def decode_bytes(data: Data, offset: int, count: int) -> tuple[np.ndarray, int]:
    """Decode `count` bytes at `offset`; return them, uint8 [count], and the offset after them.

    Raises
    ------
    MessageError
        If the bytes are cut off or detectably damaged.
    """
    reader = ByteReader(data, offset, count)
    return reader.read(count), reader.end


def encode_floats(arrays: Sequence[np.ndarray]) -> bytes:
    """Code finite float32 arrays of any shapes, exactly; shapes are not written.

    Layout: one byte per array for which of the three formats; then, format by format, the planes of bytes of all its
    arrays.
    """
    formats = [_narrowest(array) for array in arrays]
    chunks = [bytes(formats)]
    for which, width in enumerate(_WIDTHS):
        raw = b"".join(_pack(array, which) for array, one in zip(arrays, formats, strict=True) if one == which)
        # The highest bytes, with sign and exponent, are similar, the lowest ones random: each place is coded by itself.
        planes = np.frombuffer(raw, dtype=np.uint8).reshape(-1, width)  # [values, bytes], little-endian
        chunks += [encode_bytes(np.ascontiguousarray(planes[:, column])) for column in reversed(range(width))]
    return b"".join(chunks)


def decode_floats(data: Data, offset: int, sizes: Sequence[int]) -> tuple[list[np.ndarray], int]:
    """Decode arrays of the given sizes at `offset`: float32 [size] each, and the offset after them.

    Raises
    ------
    MessageError
        If a format is unknown, a value is not finite, or bytes are missing.
    """
    formats = list(data[offset : offset + len(sizes)])
    offset += len(sizes)
    if len(formats) < len(sizes) or max(formats, default=0) >= len(_WIDTHS):
        raise MessageError("a format of floats is unknown, or the part that holds them is cut off.")
    found: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(sizes)
    for which, width in enumerate(_WIDTHS):
        members = [index for index, one in enumerate(formats) if one == which]
        count = sum(sizes[index] for index in members)
        planes = np.empty((count, width), dtype=np.uint8)
        for column in reversed(range(width)):
            planes[:, column], offset = decode_bytes(data, offset, count)
        values = _unpack(planes.tobytes(), which)
        if not np.all(np.isfinite(values)):
            raise MessageError("a value that is coded losslessly is not finite.")
        ends = np.cumsum([0, *(sizes[index] for index in members)])
        for index, start, end in zip(members, ends[:-1], ends[1:], strict=True):
            found[index] = values[start:end]
    return found, offset


def float_bytes(array: np.ndarray) -> np.ndarray:
    """Bytes of a float32 array in the narrowest format that holds it, before they are coded; uint8 [values, bytes]."""
    which = _narrowest(array)
    return np.frombuffer(_pack(array, which), dtype=np.uint8).reshape(-1, _WIDTHS[which])


def _narrowest(array: np.ndarray) -> int:
    # Compared as bits, so that a negative zero is kept. Formats: float16, bfloat16, float32.
    wide = array.astype(np.float32)
    with np.errstate(over="ignore"):
        if np.array_equal(wide.astype(np.float16).astype(np.float32).view(np.uint32), wide.view(np.uint32)):
            return 0
    return 2 if np.any(wide.view(np.uint32) & np.uint32(0xFFFF)) else 1


def _pack(array: np.ndarray, which: int) -> bytes:
    wide = np.ascontiguousarray(array, dtype=np.float32)
    if which == 0:
        return wide.astype("<f2").tobytes()
    if which == 1:
        return (wide.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
    return wide.astype("<f4").tobytes()


def _unpack(raw: bytes, which: int) -> np.ndarray:
    if which == 0:
        return np.frombuffer(raw, dtype="<f2").astype(np.float32)
    if which == 1:
        return (np.frombuffer(raw, dtype="<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.frombuffer(raw, dtype="<f4").astype(np.float32)
