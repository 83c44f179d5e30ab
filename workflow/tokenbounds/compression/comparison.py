"""Sizes of a message's symbols under general-purpose compressors, on a sample that takes them seconds."""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from tokenbounds.messages.coding.lossless import encode_bytes
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import encode_codes, plane_shape
from tokenbounds.threads import allowed_threads, in_threads

COMPARED_WHOLE = 1 << 22
_SAMPLED = 1 / 4  # of that many, where there are more symbols: general-purpose compressors are slow


def compare_coders(symbols: Sequence[np.ndarray], coder: Coder, limit: int = COMPARED_WHOLE) -> dict[str, int]:
    """Sizes of the same symbols in bits, coded by ourselves and by gzip, xz and zstd.

    Parameters
    ----------
    symbols : sequence of int arrays
        The codes of each tensor; uint8 [values, bytes] where bytes are coded column by column, see `exact`.
    coder : {"adaptive", "static"}
    limit : int
        If there are more symbols than this, only the first rows of each tensor are compared, the same share of each,
        together a quarter of the limit.

    Returns
    -------
    dict of str to int
        `symbols` (how many were compared), and bits: `ours`, `gzip`, `xz`, `zstd`. The others get one byte per symbol
        if all fit, otherwise four.
    """
    sample = _first_rows(symbols, limit)
    return {
        "symbols": sum(codes.size for codes in sample),
        "ours": _our_bits(sample, coder),
        **compressed_bits(sample),
    }


def compressed_bits(symbols: Sequence[np.ndarray]) -> dict[str, int]:
    """Bits that gzip, xz and zstd need for the same symbols, one byte each if they fit, otherwise four."""
    import pyarrow as pa

    flat = np.concatenate([codes.reshape(-1).astype(np.int32) - 128 * (codes.dtype == np.uint8) for codes in symbols])
    fits = flat.size == 0 or (flat.min() >= -128 and flat.max() < 128)
    data = flat.astype("<i1" if fits else "<i4").tobytes()
    # xz at its best, with no larger a dictionary than the data: its memory is cleared each time.
    dictionary = min(max(len(data), 1 << 12), 1 << 26)
    xz = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "xz": lambda data: lzma.compress(data, filters=[xz]),
        "zstd": lambda data: pa.Codec("zstd", compression_level=19).compress(data, asbytes=True),
        "gzip": lambda data: zlib.compress(data, 9, 31),
    }
    sizes = in_threads(lambda name: 8 * len(compressors[name](data)), list(compressors), allowed_threads())
    return dict(zip(compressors, sizes, strict=True))


def _our_bits(symbols: Sequence[np.ndarray], coder: Coder) -> int:
    """Codes together; bytes plane by plane, over all tensors that have as many."""
    size = len(encode_codes([codes for codes in symbols if codes.dtype != np.uint8], coder))
    tables = [codes for codes in symbols if codes.dtype == np.uint8]
    for width in sorted({table.shape[1] for table in tables}):
        planes = np.concatenate([table for table in tables if table.shape[1] == width])
        size += sum(len(encode_bytes(np.ascontiguousarray(plane))) for plane in planes.T)
    return 8 * size


def _first_rows(symbols: Sequence[np.ndarray], limit: int) -> list[np.ndarray]:
    total = sum(codes.size for codes in symbols)
    if total <= limit:
        return list(symbols)
    sample = []
    for codes in symbols:
        plane = codes.reshape(plane_shape(codes.shape))
        sample.append(plane[: math.ceil(len(plane) * _SAMPLED * limit / total)].copy())  # a view would keep the whole
    return sample
