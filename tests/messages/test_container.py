"""The container: every byte counted, every damage seen, nothing but MessageError."""

import hashlib
import zlib

import pytest
from forged_messages import write_message
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.errors import MessageError
from tokenbounds.messages import container
from tokenbounds.messages.container import Part, parse_message, read_varint, render_message, write_varint

HEADER = {"model": {"family": "gpt2", "config": {"n_layer": 2}}, "quantizer": {"kind": "uniform"}, "coder": "adaptive"}
PARTS = [Part("scales", b"\x01\x02"), Part("symbols", bytes(range(200)))]


def test_round_trip_and_breakdown_sum(tmp_path):
    path = tmp_path / "m.tbm"
    message = write_message(path, HEADER, PARTS)
    assert container.read_message(path) == message
    assert message.header == HEADER
    assert list(message.parts) == PARTS
    assert message.size_bits == 8 * path.stat().st_size == sum(message.breakdown.values())
    assert message.breakdown["symbols"] == 1600
    assert message.breakdown["scales"] == 16
    # magic 3, version 1, header length 1, count 1, two kinds 2, lengths 1 + 2, checksum 8
    assert message.breakdown["container"] == 8 * 19


def test_golden_bytes_still_decode():
    golden = bytes.fromhex(GOLDEN)
    message = parse_message(golden)
    assert message.header == HEADER
    assert list(message.parts) == [Part("scales", b"\x01\x02"), Part("symbols", b"\x03\x04\x05")]


GOLDEN = "54424d010e233ef4a0e1028a1154df12b4030002020201020303030405fbed0f44c4f4e322"


def test_preset_dictionary_is_part_of_the_format():
    assert zlib.crc32(container._DICTIONARY) == 0xFCD9308F  # a change needs a new format version


def test_every_flipped_bit_is_detected():
    data = render_message(HEADER, PARTS[:1])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(MessageError):
            parse_message(bytes(damaged))


def test_every_truncation_and_any_tail_is_detected():
    data = render_message(HEADER, PARTS)
    for size in range(len(data)):
        with pytest.raises(MessageError):
            parse_message(data[:size])
    for tail in (b"\0", b"x", data):
        with pytest.raises(MessageError):
            parse_message(data + tail)


def resealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()[: container.CHECKSUM_BYTES]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"TBM\x02", "version 2"),
        (b"TBM\x01" + write_varint(1 << 50), "declares a part"),
        (b"TBM\x01\x85\x00", "shortest form"),
        (b"TBM\x01" + b"\xff" * 9, "longer than eight"),
        (b"TBM\x01\x00" + write_varint(1 << 40), "at most 4096"),
        (b"TBM\x01\x00\x01\x63\x00", "unknown kind 99"),
        (b"TBM\x01\x00\x01\x01\x05ab", "declares a part of 5 bytes"),
        (b"TBM\x01\x00\x02\x01\x00", "cut off before its last part"),
        (b"TBM\x01\x00\x00", "header"),
    ],
)
def test_hostile_bodies_with_a_valid_checksum(body, words):
    with pytest.raises(MessageError, match=words):
        parse_message(resealed(body))


def deflated(text: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=container._DICTIONARY)
    return deflater.compress(text) + deflater.flush()


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 60000,
        b'{"a": 1}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"a":' + b"9" * 6000 + b"}",
        b'{"a":"\\ud800"}',
        b"[]",
        b"\xff\xfe",
        b" " * (1 << 17),
        b"",
    ],
)
def test_hostile_headers(text):
    packed = deflated(text)
    with pytest.raises(MessageError):
        parse_message(resealed(b"TBM\x01" + write_varint(len(packed)) + packed + b"\0"))


def test_deflate_bomb_is_stopped_early():
    packed = deflated(b"0" * (64 << 20))
    with pytest.raises(MessageError, match="too large"):
        parse_message(resealed(b"TBM\x01" + write_varint(len(packed)) + packed + b"\0"))


def test_bytes_behind_the_deflated_header_are_refused():
    packed = deflated(b"{}") + b"x"
    with pytest.raises(MessageError):
        parse_message(resealed(b"TBM\x01" + write_varint(len(packed)) + packed + b"\0"))


@given(st.integers(0, (1 << 56) - 1))
@settings(max_examples=200, deadline=None)
def test_varint_round_trip(value):
    data = write_varint(value)
    assert read_varint(b"ab" + data + b"c", 2) == (value, 2 + len(data))


def test_missing_file_and_wrong_magic_name_the_file(tmp_path):
    with pytest.raises(MessageError, match=r"gone\.tbm"):
        container.read_message(tmp_path / "gone.tbm")
    (tmp_path / "other.tbm").write_bytes(b"GGUF" + bytes(50))
    with pytest.raises(MessageError, match=r"other\.tbm.*TBM"):
        container.read_message(tmp_path / "other.tbm")


def test_parts_are_looked_up_by_kind():
    message = parse_message(render_message({}, [*PARTS, Part("scales", b"")]))
    assert message.part("symbols") == PARTS[1].data
    for kind in ("scales", "codebooks"):
        with pytest.raises(MessageError, match=kind):
            message.part(kind)
    with pytest.raises(MessageError, match="unknown part kind"):
        render_message({}, [Part("pickle", b"")])
