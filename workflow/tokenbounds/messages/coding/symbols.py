"""Entropy coding of symbol arrays: `adaptive` learns as it goes, `static` writes a frequency table first."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import MAX_MAGNITUDE, decode_planes, encode_planes
from tokenbounds.messages.coding.static import decode_static, encode_static
from tokenbounds.messages.container import read_varint, write_varint

Coder = Literal["adaptive", "parallel", "static"]
"""Of the tensors of a message; symbols by themselves are coded by the first or the last."""


def encode_symbols(
    symbols: np.ndarray, alphabet: int, coder: Coder = "adaptive", contexts: tuple[int, int] | None = None
) -> bytes:
    """Code integer symbols.

    Parameters
    ----------
    symbols : int array, any shape
        Values in [0, alphabet). An ordered alphabet (near values alike) suits the adaptive coder best.
    alphabet : int
        At most 2^30 (adaptive) or 2^17 between the least and greatest used symbol (static).
    coder : {"adaptive", "static"}
        Adaptive: preceded by the most frequent symbol only. Static: preceded by a table of integer frequencies.
    contexts : (rows, cols), optional
        Shape in which neighbours in a row and in a column resemble each other; used by the adaptive coder.

    Returns
    -------
    bytes
        Neither count nor alphabet nor shape is included: the decoder must know them.

    Raises
    ------
    MessageError
        If a symbol is outside the alphabet, or the shape does not fit.
    """
    flat = np.asarray(symbols).reshape(-1)
    if flat.size and (int(flat.min()) < 0 or int(flat.max()) >= alphabet):
        raise MessageError(f"a symbol is outside [0, {alphabet}).")
    shape = _check(flat.size, alphabet, coder, contexts)
    if coder == "static":
        return encode_static(flat.astype(np.int64), alphabet)
    if flat.size == 0:
        return b""
    values, counts = np.unique(flat, return_counts=True)
    centre = int(values[np.argmax(counts)])
    return write_varint(centre) + bytes(encode_planes([(flat.astype(np.int64) - centre).reshape(shape)]))


def decode_symbols(
    data: bytes,
    count: int,
    alphabet: int,
    coder: Coder = "adaptive",
    contexts: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decode what `encode_symbols` wrote; the other arguments must be the same.

    Time and memory are bounded by `count` and `alphabet`, whatever the bytes; the caller must bound these two.

    Returns
    -------
    int32 array [count]

    Raises
    ------
    MessageError
        If the bytes are detectably damaged.
    """
    shape = _check(count, alphabet, coder, contexts)
    if coder == "static":
        return decode_static(data, count, alphabet)
    if count == 0:
        if data:
            raise MessageError("bytes are left over after the coded symbols.")
        return np.zeros(0, dtype=np.int32)
    centre, offset = read_varint(data, 0)
    if centre >= alphabet:
        raise MessageError(f"the most frequent symbol {centre} is outside the alphabet of {alphabet}.")
    symbols = decode_planes(data[offset:], [shape])[0].reshape(-1).astype(np.int64) + centre
    if int(symbols.min()) < 0 or int(symbols.max()) >= alphabet:
        raise MessageError(f"a decoded symbol is outside the alphabet of {alphabet}.")
    return symbols.astype(np.int32)


def _check(count: int, alphabet: int, coder: str, contexts: tuple[int, int] | None) -> tuple[int, int]:
    if coder not in ("adaptive", "static"):
        raise MessageError(f"unknown coder '{coder}'. Known: adaptive, static.")
    if not 1 <= alphabet <= MAX_MAGNITUDE:
        raise MessageError(f"an alphabet of {alphabet} symbols cannot be coded; at most {MAX_MAGNITUDE}.")
    rows, cols = contexts or (1, count)
    if rows < 0 or cols < 0 or rows * cols != count:
        raise MessageError(f"the shape {rows} × {cols} does not hold {count} symbols.")
    return rows, cols
