"""Messages whose bytes stay in a file: the same parts, hashes, values and errors as of messages in memory."""

import json

import numpy as np
import pytest
import torch
from small_checkpoints import LLAMA, save_noisy
from test_spool import seeds
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.posttraining import kept_codes
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.errors import MessageError
from tokenbounds.messages import container, stored
from tokenbounds.messages.coding import adaptive, lossless
from tokenbounds.messages.coding.adaptive import decode_planes, encode_planes
from tokenbounds.messages.coding.lossless import ByteReader, encode_byte_arrays, encode_bytes
from tokenbounds.messages.container import parse_message, read_message, render_message
from tokenbounds.messages.formats import format_of
from tokenbounds.messages.spool import spoolable_card
from tokenbounds.messages.stored import ByteSpool, StoredBytes
from tokenbounds.models.build import coded_shapes
from tokenbounds.models.card import ModelCard

RNG = np.random.default_rng(4)


@pytest.fixture
def in_files(monkeypatch):
    """Everything stays in files, and is read in small pieces."""
    monkeypatch.setattr(container, "IN_MEMORY", 0)
    monkeypatch.setattr(container, "_KEPT_BYTES", 3)
    monkeypatch.setattr(stored, "IN_MEMORY", 0)
    monkeypatch.setattr(stored, "_PIECE_BYTES", 100)
    monkeypatch.setattr(adaptive, "_WINDOW_BYTES", 700)


def values_of(message):
    shapes = coded_shapes(spoolable_card(message))
    return dict(format_of(message.header).stream_values(message, shapes, message.header["coder"]))


def test_every_format_is_read_from_a_file(in_files, tmp_path):
    kinds = set()
    for data in seeds():
        (tmp_path / "m.tbm").write_bytes(data)
        message, whole = read_message(tmp_path / "m.tbm"), parse_message(data)
        assert [part.data for part in message.parts] == [part.data for part in whole.parts]
        assert vars(message).keys() == vars(whole).keys()
        assert all(vars(message)[key] == value for key, value in vars(whole).items() if key != "parts")
        assert render_message(message.header, message.parts) == data
        card = spoolable_card(message)
        if card is None or card.parameterization["kind"] != "dense":
            continue
        kinds.add(message.header["quantizer"]["kind"])
        assert any(isinstance(part.content, StoredBytes) for part in message.parts)
        (tmp_path / "m.tbm").unlink()  # the file is open
        found, expected = values_of(message), values_of(whole)
        assert list(found) == list(expected)
        assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    assert kinds >= {"uniform", "codebook", "scaled", "rotated", "quip_sharp", "published"}


def test_a_damaged_file_is_refused(in_files, tmp_path):
    data = bytearray(seeds()[0])
    for position in (4, len(data) // 2, len(data) - 1):
        data[position] ^= 1
        (tmp_path / "m.tbm").write_bytes(data)
        with pytest.raises(MessageError, match=r"m\.tbm: .*checksum"):
            read_message(tmp_path / "m.tbm")
        data[position] ^= 1
    for size in (0, 3, 8, 40):
        (tmp_path / "m.tbm").write_bytes(data[:size])
        with pytest.raises(MessageError):
            read_message(tmp_path / "m.tbm")


def test_a_file_that_becomes_shorter_is_noticed(in_files, tmp_path):
    (tmp_path / "m.tbm").write_bytes(seeds()[0])
    message = read_message(tmp_path / "m.tbm")
    with (tmp_path / "m.tbm").open("r+b") as file:
        file.truncate(len(seeds()[0]) // 2)
    with pytest.raises(MessageError, match="became shorter"):
        values_of(message)


@pytest.mark.parametrize("limit", [0, 10, 1 << 20])
def test_spooled_bytes_are_those_that_were_written(monkeypatch, limit):
    monkeypatch.setattr(stored, "IN_MEMORY", limit)
    chunks, spool = [RNG.bytes(size) for size in (0, 3, 5, 40, 1)], ByteSpool()
    for chunk in chunks:
        spool.append(chunk)
    data, whole = spool.finish(), b"".join(chunks)
    assert isinstance(data, bytes) == (limit >= len(whole))
    assert bytes(data) == whole
    assert (len(data), data[7], data[-1]) == (len(whole), whole[7], whole[-1])
    assert (data[5:9], data[45:]) == (whole[5:9], whole[45:])


@pytest.mark.parametrize("window", [1, 600, 5000])
def test_codes_are_decoded_through_a_window(monkeypatch, window):
    planes = [RNG.integers(-900, 900, (30, 50)), RNG.integers(-2, 3, (40, 70)), np.zeros((9, 0), dtype=int)]
    shapes = [plane.shape for plane in planes]
    data = encode_planes(planes)
    monkeypatch.setattr(adaptive, "_WINDOW_BYTES", window)
    assert all(np.array_equal(*pair) for pair in zip(decode_planes(data, shapes), planes, strict=True))
    for wrong in (data + 300 * b"\1", data + b"\0"):
        with pytest.raises(MessageError, match="left over"):
            decode_planes(wrong, shapes)


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 22])
def test_bytes_of_many_arrays_are_those_of_one(monkeypatch, block):
    monkeypatch.setattr(lossless, "_BLOCK", block)
    arrays = [RNG.integers(0, 3, size).astype(np.uint8) for size in (0, 5, 64, 1, 70)]
    data = b"".join(encode_byte_arrays(arrays))
    assert data == encode_bytes(np.concatenate(arrays))
    reader = ByteReader(b"x" + data, 1, 140)
    assert reader.end == 1 + len(data)
    assert all(np.array_equal(reader.read(array.size), array) for array in arrays)


@pytest.mark.parametrize("kind", ["rtn", "quip_sharp", "codebook"])
def test_a_message_is_written_by_way_of_files(kind, tmp_path, monkeypatch, request):
    folder = save_noisy(tmp_path / "m", ModelCard("llama", LLAMA, 48, 1, 32, seed=5), noise=0.1)
    quantizer = {"kind": kind} | ({"target": {"scale": 0.5}} if kind == "rtn" else {})
    spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": quantizer}))
    encode_model(folder, spec, tmp_path / "a.tbm", tmp_path / "a.json")
    request.getfixturevalue("in_files")
    monkeypatch.setattr(kept_codes, "_SMALL", 0)
    torch.manual_seed(0)
    encode_model(folder, spec, tmp_path / "b.tbm", tmp_path / "b.json")
    assert (tmp_path / "b.tbm").read_bytes() == (tmp_path / "a.tbm").read_bytes()
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"m", "a.tbm", "a.json", "b.tbm", "b.json"}
