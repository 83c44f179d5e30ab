"""Static entropy coding: a table of integer frequencies, then constriction's range coder."""

from __future__ import annotations

import constriction
import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import decode_planes, encode_planes
from tokenbounds.messages.container import read_varint, write_varint

_TOTAL = 1 << 16
_MAX_ALPHABET = 1 << 17


def encode_static(symbols: np.ndarray, alphabet: int) -> bytes:
    """Code symbols in [0, alphabet) with one table of integer frequencies.

    Layout: varint first used symbol, varint span, varint table bytes, table (`encode_planes` of the frequencies),
    little-endian 32-bit words of the range coder.
    """
    if symbols.size == 0:
        return b""
    first, last = int(symbols.min()), int(symbols.max())
    counts = np.bincount(symbols - first)
    if last - first + 1 > _MAX_ALPHABET:
        raise MessageError(f"static coding holds tables of at most {_MAX_ALPHABET} symbols. Use the adaptive coder.")
    frequencies = _scale(counts)
    table = bytes(encode_planes([frequencies[None]]))
    head = write_varint(first) + write_varint(last - first) + write_varint(len(table)) + table
    if last == first:
        return head
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(np.ascontiguousarray(symbols - first, dtype=np.int32), _model(frequencies))
    return head + encoder.get_compressed().astype("<u4").tobytes()


def decode_static(data: bytes, count: int, alphabet: int) -> np.ndarray:
    """Decode `count` symbols; see `encode_static`.

    Raises
    ------
    MessageError
        If the table or the words are damaged.
    """
    if count == 0:
        return _empty(data)
    first, offset = read_varint(data, 0)
    span, offset = read_varint(data, offset)
    size, offset = read_varint(data, offset)
    if first + span >= alphabet or span >= _MAX_ALPHABET or size > len(data) - offset:
        raise MessageError("the frequency table of the static code is damaged.")
    frequencies = decode_planes(data[offset : offset + size], [(1, span + 1)])[0][0]
    if frequencies.min() < 0 or not 0 < int(frequencies.sum(dtype=np.int64)) <= 2 * _TOTAL + _MAX_ALPHABET:
        raise MessageError("the frequency table of the static code is damaged.")
    words = data[offset + size :]
    if span == 0:
        _empty(words)
        return np.full(count, first, dtype=np.int32)
    return _decode_words(words, frequencies, count) + np.int32(first)


def _empty(data: bytes) -> np.ndarray:
    if data:
        raise MessageError("bytes are left over after the coded symbols.")
    return np.zeros(0, dtype=np.int32)


def _decode_words(words: bytes, frequencies: np.ndarray, count: int) -> np.ndarray:
    if len(words) % 4:
        raise MessageError("the static code is cut off inside a word.")
    try:
        decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(words, dtype="<u4").astype(np.uint32))
        symbols = np.asarray(decoder.decode(_model(frequencies), count), dtype=np.int32)
        exhausted = decoder.maybe_exhausted()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # constriction reports invalid data by several types, Rust panics among them
        raise MessageError("the static code does not match its frequency table.") from error
    if not exhausted:
        raise MessageError("bytes are left over after the coded symbols.")
    return symbols


def _model(frequencies: np.ndarray) -> constriction.stream.model.Categorical:
    """Constriction's model of integer frequencies: IEEE sums and products only, hence the same on every machine."""
    return constriction.stream.model.Categorical(frequencies.astype(np.float64), perfect=False)


def _scale(counts: np.ndarray) -> np.ndarray:
    """Frequencies that sum to about 2^16 (or the counts themselves), at least 1 where a symbol occurs."""
    total = int(counts.sum())
    if total <= _TOTAL:
        return counts.astype(np.int64)
    scaled = (counts.astype(np.int64) * _TOTAL + total // 2) // total  # rounded to nearest
    return np.where(counts > 0, np.maximum(scaled, 1), 0)
