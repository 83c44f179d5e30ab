"""Bytes and floats coded losslessly: round trips, sizes, and damaged bytes."""

import numpy as np
import pytest
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.lossless import decode_bytes, decode_floats, encode_bytes, encode_floats, float_bytes

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("count", [0, 1, 2, 255, 5000])
@pytest.mark.parametrize("kind", ["random", "skewed", "constant"])
def test_bytes_come_back_and_take_no_more_than_raw(count, kind):
    values = {
        "random": RNG.integers(0, 256, size=count),
        "skewed": RNG.geometric(0.3, size=count) % 256,
        "constant": np.full(count, 7),
    }[kind].astype(np.uint8)
    data = encode_bytes(values)
    assert len(data) <= count + 1
    decoded, end = decode_bytes(b"xx" + data + b"yy", 2, count)
    assert np.array_equal(decoded, values) and end == 2 + len(data)
    if kind == "skewed" and count == 5000:
        assert len(data) < 0.5 * count


def test_blocks_are_coded_one_by_one(monkeypatch):
    monkeypatch.setattr("tokenbounds.messages.coding.lossless._BLOCK", 100)
    values = np.concatenate([np.zeros(150), RNG.integers(0, 256, size=175)]).astype(np.uint8)
    data = encode_bytes(values)
    assert np.array_equal(decode_bytes(data, 0, values.size)[0], values)
    assert len(data) < 300


def test_floats_take_the_narrowest_format_and_come_back_bit_by_bit():
    half = RNG.normal(size=(6, 5)).astype(np.float16).astype(np.float32)
    brain = (RNG.normal(size=40).astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) * 2.0**40
    full = RNG.normal(size=33).astype(np.float32)
    special = np.array([-0.0, 0.0, 1e-45, 3e38], dtype=np.float32)
    arrays = [half, brain, full, np.zeros(0, np.float32), special, half[0]]
    data = encode_floats(arrays)
    decoded, end = decode_floats(data, 0, [array.size for array in arrays])
    assert end == len(data)
    assert list(data[:6]) == [0, 1, 2, 0, 2, 0]
    assert all(a.tobytes() == b.tobytes() and b.dtype == np.float32 for a, b in zip(arrays, decoded, strict=True))
    assert len(data) <= 6 + 2 * 35 + 2 * 40 + 4 * 37 + 8
    assert float_bytes(half).size == 2 * half.size and float_bytes(full).size == 4 * full.size


def test_a_format_that_drops_bits_is_caught():
    values = np.array([1 + 2.0**-11], dtype=np.float32)  # one bit more than float16 holds
    assert encode_floats([values])[0] == 2
    assert decode_floats(encode_floats([values]), 0, [1])[0][0].tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x03", b"\x00", b"\x00\x00", b"\x00\x00\x7c\x00\x00", b"\x00\x05abcde", b"\x00\xff\xff\xff\x7f"],
)
def test_damaged_floats_are_refused(data):
    with pytest.raises(MessageError):
        decode_floats(data, 0, [1])


def test_any_bytes_decode_or_are_refused():
    for size in range(60):
        try:
            values, _ = decode_bytes(RNG.bytes(size), 0, 50)
            assert values.shape == (50,) and values.dtype == np.uint8
        except MessageError:
            pass
