"""Entropy coding: exact round trips, sizes near the ideal, bytes that never change, damage that never crashes."""

import lzma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import decode_planes, encode_planes
from tokenbounds.messages.coding.kernels import coding_tables
from tokenbounds.messages.coding.symbols import decode_symbols, encode_symbols
from tokenbounds.messages.coding.tensors import decode_codes, encode_codes

CODERS = ("adaptive", "static")


def entropy_bits(symbols):
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def bell(seed, shape, width):
    return np.rint(np.random.default_rng(seed).normal(size=shape) * width).astype(np.int64)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize(
    ("symbols", "alphabet"),
    [
        ([], 5),
        ([0], 1),
        ([3], 4),
        ([0] * 1000, 1),
        ([7] * 1000, 65536),
        ([0, 65536] * 50, 65537),
        (list(range(256)) * 3, 256),
        ([255] + [0] * 500, 256),
    ],
)
def test_round_trip_of_corner_cases(coder, symbols, alphabet):
    array = np.array(symbols, dtype=np.int64)
    data = encode_symbols(array, alphabet, coder)
    decoded = decode_symbols(data, array.size, alphabet, coder)
    assert decoded.dtype == np.int32
    assert np.array_equal(decoded, array)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_round_trip_of_anything(data):
    alphabet = data.draw(st.sampled_from([1, 2, 3, 16, 257, 70000]))
    rows, cols = data.draw(st.integers(0, 12)), data.draw(st.integers(0, 12))
    values = data.draw(st.lists(st.integers(0, alphabet - 1), min_size=rows * cols, max_size=rows * cols))
    symbols = np.array(values, dtype=np.int64)
    for coder in CODERS:
        code = encode_symbols(symbols, alphabet, coder, (rows, cols))
        assert np.array_equal(decode_symbols(code, symbols.size, alphabet, coder, (rows, cols)), symbols)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 30)), max_size=5))
@settings(max_examples=60, deadline=None)
def test_planes_round_trip_in_one_stream(sizes):
    rng = np.random.default_rng(len(sizes))
    planes = [rng.integers(-(1 << bits) + 1, 1 << bits, (rows, cols)) for rows, cols, bits in sizes]
    decoded = decode_planes(encode_planes(planes), [plane.shape for plane in planes])
    assert all(np.array_equal(a, b) for a, b in zip(planes, decoded, strict=True))


@pytest.mark.parametrize("coder", CODERS)
def test_codes_of_mixed_shapes_come_back_in_order(coder):
    arrays = [bell(k, shape, 3).astype(np.int32) for k, shape in enumerate([(7,), (5, 4), (3,), (2, 3, 4), (0,), ()])]
    decoded = decode_codes(encode_codes(arrays, coder), [array.shape for array in arrays], coder)
    assert all(np.array_equal(a, b) and a.shape == b.shape for a, b in zip(arrays, decoded, strict=True))


@pytest.mark.parametrize("width", [0.2, 0.5, 2, 10])
def test_static_size_is_within_one_percent_of_its_ideal(width):
    symbols = bell(0, 50000, width)
    symbols -= symbols.min()
    data = encode_symbols(symbols, 1000, "static")
    assert 8 * len(data) <= 1.01 * entropy_bits(symbols) + 1600


@pytest.mark.parametrize("width", [0.1, 0.5, 2, 10])
def test_adaptive_size_is_within_two_percent_of_the_entropy(width):
    codes = bell(1, (200, 200), width)
    assert 8 * len(encode_planes([codes])) <= 1.02 * entropy_bits(codes) + 400


@pytest.mark.parametrize("case", ["iid", "rows", "sparse", "constant", "wide", "small"])
def test_adaptive_is_never_larger_than_xz(case):
    codes = {
        "iid": lambda: bell(2, (300, 300), 2),
        "rows": lambda: np.rint(bell(3, (300, 200), 20) * np.linspace(0, 0.4, 300)[:, None]).astype(np.int64),
        "sparse": lambda: bell(4, (300, 300), 0.2),
        "constant": lambda: np.full((300, 300), 3),
        "wide": lambda: bell(5, (100, 300), 5000),
        "small": lambda: bell(6, (8, 16), 2),
    }[case]()
    dtype = "<i1" if np.abs(codes).max() < 128 else "<i4"
    rival = lzma.compress(codes.astype(dtype).tobytes(), preset=9 | lzma.PRESET_EXTREME)
    assert len(encode_planes([codes])) <= len(rival)


def test_contexts_of_rows_and_columns_pay():
    rng = np.random.default_rng(7)
    scales = np.exp(0.5 * rng.normal(size=(256, 1)) + 0.5 * rng.normal(size=(1, 256)))
    codes = np.rint(rng.normal(size=(256, 256)) * scales).astype(np.int64) + 100
    shaped = encode_symbols(codes, 300, contexts=(256, 256))
    assert 8 * len(shaped) < 0.92 * entropy_bits(codes)
    assert len(shaped) < len(encode_symbols(codes, 300))


def test_later_arrays_profit_from_earlier_ones():
    planes = [bell(seed, (16, 16), 1.5) for seed in range(20)]
    assert len(encode_planes(planes)) < 0.98 * sum(len(encode_planes([plane])) for plane in planes)


def test_tables_never_change():
    """A change of any entry changes bytes, and needs a new format version."""
    import hashlib

    digest = hashlib.sha256(b"".join(table.astype("<i8").tobytes() for table in coding_tables()))
    assert digest.hexdigest() == "6f6a6cc73a3501c2a63c4663cc30ae1291a96fcc42185eb54c81039abf1c80cb"


GOLDEN_SYMBOLS = [8, 8, 7, 9, 8, 5, 8, 12, 8, 8, 0, 15, 8, 7, 8, 8]
GOLDEN = {"adaptive": "083e2ed7218df4", "static": "000f05c2154e9fb077848c7610acc47a"}


@pytest.mark.parametrize("coder", CODERS)
def test_golden_bytes(coder):
    symbols = np.array(GOLDEN_SYMBOLS)
    assert encode_symbols(symbols, 16, coder, (4, 4)).hex() == GOLDEN[coder]
    assert decode_symbols(bytes.fromhex(GOLDEN[coder]), 16, 16, coder, (4, 4)).tolist() == GOLDEN_SYMBOLS


def test_golden_bytes_of_large_magnitudes_and_many_symbols():
    import hashlib

    steps = np.arange(30000, dtype=np.int64)
    planes = [
        ((steps * steps * 7919 + steps * 104729) % 23 - 11).reshape(100, 300) * (steps.reshape(100, 300) % 3 == 0),
        np.array([[1 << 29, -(1 << 29), 0, 5000, -77, (1 << 30) - 1]]),
    ]
    assert (
        hashlib.sha256(encode_planes(planes)).hexdigest()
        == "d1f6fc0e7ba63dc02af668a70056492f317127a55ae03af94f8a4974755b68dc"
    )


@pytest.mark.parametrize("coder", CODERS)
def test_damaged_bytes_give_symbols_or_the_one_error(coder):
    rng = np.random.default_rng(8)
    symbols = bell(9, 300, 2)
    symbols -= symbols.min()
    data = encode_symbols(symbols, 40, coder)
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        damaged = bytes(damaged[: rng.integers(len(damaged) + 1)]) if rng.random() < 0.3 else bytes(damaged)
        try:
            decoded = decode_symbols(damaged, 300, 40, coder)
        except MessageError:
            continue
        assert decoded.size == 300
        assert 0 <= decoded.min() <= decoded.max() < 40


@pytest.mark.parametrize("coder", CODERS)
def test_noise_gives_symbols_or_the_one_error(coder):
    rng = np.random.default_rng(10)
    for size in list(range(12)) * 40:
        try:
            decode_symbols(rng.bytes(size), 50, 70000, coder, (5, 10))
        except MessageError:
            continue


def test_leftover_bytes_are_refused():
    data = encode_symbols(np.arange(50) % 5, 5)
    with pytest.raises(MessageError, match="left over"):
        decode_symbols(data + b"abcdef", 50, 5)
    with pytest.raises(MessageError, match="left over"):
        decode_symbols(b"x", 0, 5)


@pytest.mark.parametrize(
    ("symbols", "alphabet", "coder", "contexts"),
    [([5], 5, "adaptive", None), ([-1], 5, "static", None), ([1], 5, "huffman", None), ([1, 2], 5, "adaptive", (2, 2))],
)
def test_misuse_is_named(symbols, alphabet, coder, contexts):
    with pytest.raises(MessageError):
        encode_symbols(np.array(symbols), alphabet, coder, contexts)


def test_values_too_large_are_refused():
    with pytest.raises(MessageError, match="larger step"):
        encode_planes([np.array([[1 << 30]])])
