"""Entropy coders: speed, and size against the empirical entropy, gzip, xz and zstd, in one run.

    python benchmarks/coding.py [symbols]

Symbols are quantized Gaussian weights at several steps, of equal scale ("even") or with scales that differ between rows
and between columns ("uneven", as in trained networks). MB/s counts symbols as bytes. Ratios are of sizes.
"""

from __future__ import annotations

import argparse
import lzma
import time
import zlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from _peak import peak_bytes
from tokenbounds.messages.coding.symbols import decode_symbols, encode_symbols

_ZSTD = pa.Codec("zstd", compression_level=19)


def symbols_of(count: int, step: float, spread: float) -> np.ndarray:
    """Codes of a square Gaussian matrix, shifted to start at zero; int64 [rows, cols]."""
    side = int(count**0.5)
    rng = np.random.default_rng(0)
    scales = np.exp(spread * rng.normal(size=(side, 1)) + spread * rng.normal(size=(1, side)))
    codes = np.rint(rng.normal(size=(side, side)) * scales / step).clip(-120, 120).astype(np.int64)
    return codes - codes.min()


def entropy_bytes(symbols: np.ndarray) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


def timed(action: Callable[[], object]) -> tuple[object, float]:
    start = time.process_time()
    return action(), time.process_time() - start


def row(name: str, symbols: np.ndarray) -> str:
    """One line of the table."""
    flat, shape = symbols.reshape(-1), symbols.shape
    alphabet, ideal = int(flat.max()) + 1, entropy_bytes(flat)
    cells = [f"{name:<14}{8 * ideal / flat.size:>8.3f}"]
    for coder in ("adaptive", "static"):
        data, spent = timed(lambda c=coder: encode_symbols(flat, alphabet, c, shape))
        assert isinstance(data, bytes)
        decoded, gained = timed(lambda c=coder, d=data: decode_symbols(d, flat.size, alphabet, c, shape))
        assert np.array_equal(decoded, flat)
        cells.append(f"{len(data) / ideal:>10.4f}{flat.size / spent / 1e6:>8.1f}{flat.size / gained / 1e6:>8.1f}")
    raw = flat.astype(np.uint8).tobytes()
    rivals = (
        len(zlib.compress(raw, 9)),
        len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
        len(_ZSTD.compress(raw, asbytes=True)),
    )
    cells += [f"{size / ideal:>8.3f}" for size in rivals]
    return "".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("symbols", type=int, nargs="?", default=1_000_000)
    count = parser.parse_args().symbols
    warm = np.arange(16).reshape(4, 4)
    decode_symbols(encode_symbols(warm, 16), 16, 16)  # compile
    print("sizes as ratios to the empirical entropy; speeds in M symbols/s (= MB/s) of one core")
    print(f"{'symbols':<14}{'bits':>8}{'adaptive':>10}{'enc':>8}{'dec':>8}{'static':>10}{'enc':>8}{'dec':>8}", end="")
    print(f"{'gzip':>8}{'xz':>8}{'zstd':>8}")
    for step in (4.0, 2.0, 1.0, 0.5, 0.2):
        for kind, spread in (("even", 0.0), ("uneven", 0.3)):
            print(row(f"{kind} Δ={step:g}", symbols_of(count, step, spread)), flush=True)
    print(f"peak memory {peak_bytes() / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
