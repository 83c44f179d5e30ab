"""Codes in streams that are coded side by side: the arrays come back, whatever the threads; damage is refused."""

import contextlib
import hashlib
import json

import numpy as np
import pytest
from small_checkpoints import LLAMA, save_noisy
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding import streams
from tokenbounds.messages.coding.adaptive import encode_planes
from tokenbounds.messages.coding.streams import encode_streams, iter_streams
from tokenbounds.messages.coding.tensors import decode_codes, encode_codes
from tokenbounds.messages.coding.trellis import grid_points, trellis
from tokenbounds.messages.container import read_message, write_varint
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.card import ModelCard

SHAPES = [(12, 30), (7,), (20, 5), (2, 3, 4), (5,), (40, 25)]


@pytest.fixture
def short(monkeypatch):
    """Streams of a few hundred codes."""
    monkeypatch.setattr(streams, "STREAM_CODES", 300)


def arrays_of(seed=3):
    rng = np.random.default_rng(seed)
    return [rng.integers(-4, 5, shape).astype(np.int32) for shape in SHAPES]


@pytest.mark.parametrize("threads", ["1", "3"])
def test_arrays_come_back_and_bytes_do_not_depend_on_threads(short, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    arrays, machine = arrays_of(), trellis(8)
    arrays[2] = grid_points(arrays[2], machine).astype(np.int32)
    machines = [None, None, machine, None, None, None]
    data = encode_codes(arrays, "parallel", machines)
    assert hashlib.sha256(data).hexdigest()[:16] == "d08d530e6459ac47"
    found = decode_codes(data, SHAPES, "parallel", machines)
    assert all(np.array_equal(*pair) and pair[0].dtype == np.int32 for pair in zip(found, arrays, strict=True))


def test_the_bytes_are_those_of_the_adaptive_coder_run_by_run(short):
    planes = [array.reshape(-1, array.shape[-1]) for array in arrays_of()]
    shapes = [plane.shape for plane in planes]
    assert streams._runs(shapes) == [range(1), range(1, 6)]
    parts = [encode_planes(planes[:1]), encode_planes(planes[1:])]
    data = b"".join(write_varint(len(part)) + part for part in parts)
    assert encode_streams(lambda index: planes[index], shapes, [None] * 6) == data
    assert all(np.array_equal(*pair) for pair in zip(iter_streams(data, shapes, [None] * 6), planes, strict=True))
    assert streams._runs([]) == []
    assert encode_streams(lambda _: None, [], []) == b""


def test_streams_of_real_length_cost_little():
    """Ten thousand codes a stream take less than two per cent more; a model's streams are a thousand times as long."""
    rng = np.random.default_rng(0)
    scales = np.exp(rng.normal(size=(1, 100)))
    planes = [np.rint(rng.normal(size=(100, 100)) * scales).astype(np.int64) for _ in range(6)]
    apart = sum(len(encode_planes([plane])) for plane in planes)
    assert len(encode_planes(planes)) < apart < 1.02 * len(encode_planes(planes))


def test_damaged_streams_are_refused(short):
    data, rng = bytes(encode_codes(arrays_of(), "parallel")), np.random.default_rng(1)
    for wrong in (data[:-1], data + b"\1", data[1:], b"", b"\xff" * 9, write_varint(1 << 40) + data):
        with pytest.raises(MessageError):
            decode_codes(wrong, SHAPES, "parallel")
    for _ in range(100):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(MessageError):
            assert len(decode_codes(bytes(damaged), SHAPES, "parallel")) == len(SHAPES)
    with pytest.raises(MessageError, match="sides"):
        encode_codes(arrays_of(), "parallel", sides=arrays_of())


@pytest.mark.parametrize("kind", ["rtn", "codebook", "uniform", "quip_sharp"])
def test_messages_decode_to_the_same_model(short, tmp_path, kind):
    folder = save_noisy(tmp_path / "m", ModelCard("llama", LLAMA, 48, 1, 32, seed=5), noise=0.1)
    quantizer = {"kind": kind} | ({"target": {"scale": 0.5}} if kind == "rtn" else {})
    values = {}
    for coder in ("adaptive", "parallel"):
        spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": quantizer, "coder": coder}))
        encode_model(folder, spec, tmp_path / coder, tmp_path / "r.json")
        assert read_message(tmp_path / coder).header["coder"] == coder
        values[coder] = coded_parameters(decode_message(tmp_path / coder))
    assert all((values["parallel"][name] == value).all() for name, value in values["adaptive"].items())
