"""Grids and codebooks: steps, hand-computed values, and parts that survive the container bit for bit."""

import numpy as np
import pytest
from small_checkpoints import TENSORS
from tokenbounds.compression.grids import round_by_spread, round_to_steps
from tokenbounds.compression.methods.codebook import assign, learn_codebook
from tokenbounds.compression.posttraining import kept_codes
from tokenbounds.errors import MessageError
from tokenbounds.messages.container import Part, parse_message, render_message
from tokenbounds.messages.formats import format_of
from tokenbounds.messages.formats.codebook import CodebookFormat
from tokenbounds.messages.formats.grid import default_value, exponent_of, step_of
from tokenbounds.messages.formats.uniform import UniformFormat

SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}


def test_steps_are_powers_of_two_with_eight_steps_between():
    assert [float(step_of(k)) for k in (-16, -8, 0, 8, 24)] == [0.25, 0.5, 1.0, 2.0, 8.0]
    for k in range(-512, 512):
        assert step_of(k) == np.float32(2.0 ** (k / 8))
        assert exponent_of(float(step_of(k))) == k
    assert exponent_of(0.0) == 0
    assert exponent_of(1e-300) == -512
    assert exponent_of(1e300) == 511


def test_uniform_by_hand():
    tensors = {"a": np.array([[0.2, -0.3, 1.26, 0.75]], np.float32), "n.weight": np.array([1.0, 0.5], np.float32)}
    quantized = round_to_steps(tensors, {"a": -8, "n.weight": -16})
    assert quantized.codes["a"].tolist() == [[0, -1, 3, 2]]  # 1.5 rounds to even
    assert quantized.codes["n.weight"].tolist() == [0, -2]  # norms count from one
    values = quantized.dequantize()
    assert values["a"].tolist() == [[0.0, -0.5, 1.5, 1.0]]
    assert values["n.weight"].tolist() == [1.0, 0.5]
    assert values["a"].dtype == np.float32


def test_defaults():
    assert default_value("h.0.ln_1.weight", (8,)) == 1
    assert default_value("h.0.ln_1.bias", (8,)) == 0
    assert default_value("wte.weight", (8, 8)) == 0


def uniform():
    return UniformFormat(**vars(round_by_spread(TENSORS, 0.5)))


@pytest.mark.parametrize("kept", [True, False])
def test_golden_bytes_whether_codes_are_in_files_or_in_memory(monkeypatch, kept):
    monkeypatch.setattr(kept_codes, "_SMALL", 0)
    values = {"w": (np.arange(-30, 30, dtype=np.float32) ** 3 / 1000).reshape(6, 10)}
    values["n.weight"] = 1 + np.arange(4, dtype=np.float32) / 16
    rounded = round_by_spread(values, 0.5, kept_codes.KeptCodes() if kept else None)
    shapes = {name: each.shape for name, each in values.items()}
    scales, symbols = UniformFormat(rounded.codes, rounded.exponents, shapes).to_parts("adaptive")
    assert bytes(scales.data).hex() == "c703ffff0420"
    assert bytes(symbols.data).hex() == "bd6334f990e03a74316c8100a3e061cf335dd37f2a7c2f"


def codebook():
    books = {name: learn_codebook(tensor, 8) for name, tensor in TENSORS.items() if tensor.ndim == 2}
    return assign(TENSORS, books, round_by_spread({n: t for n, t in TENSORS.items() if t.ndim == 1}, 0.25))


def round_trip(quantized, coder):
    data = render_message({}, quantized.to_parts(coder))
    return type(quantized).from_message(parse_message(data), SHAPES, coder)


@pytest.mark.parametrize("coder", ["adaptive", "static"])
@pytest.mark.parametrize("make", [uniform, codebook])
def test_parts_decode_to_the_same_bits(make, coder):
    quantized = make()
    decoded = round_trip(quantized, coder)
    before, after = quantized.dequantize(), decoded.dequantize()
    assert list(before) == list(after) == list(TENSORS)
    for name in TENSORS:
        assert before[name].dtype == after[name].dtype == np.float32
        assert before[name].tobytes() == after[name].tobytes()
    assert decoded.header() == quantized.header()
    assert all(np.array_equal(a, b) for a, b in zip(quantized.symbols(), decoded.symbols(), strict=True))


@pytest.mark.parametrize(
    "books",
    [
        b"\x01\x00\x3c\x00\x3c" * 2,  # not increasing
        b"\x01\x00\x3c\x00\x7e" * 2,  # NaN
        b"\x00\x00\x7c" * 2,  # infinite
        b"\xff\x7f",  # 16384 levels
        b"\x01\x00\x3c",  # cut off
        b"\x00\x00\x3c" * 3,  # one too many
    ],
)
def test_hostile_codebooks(books):
    parts = codebook().to_parts("adaptive")
    message = parse_message(render_message({}, [Part("codebooks", books), *parts[1:]]))
    with pytest.raises(MessageError):
        CodebookFormat.from_message(message, SHAPES, "adaptive")


@pytest.mark.parametrize("kind", ["lattice", None, ["uniform"], {"kind": "uniform"}])
def test_unknown_quantizers_are_refused(kind):
    with pytest.raises(MessageError, match="unknown quantizer"):
        format_of({"quantizer": {"kind": kind}})


def test_a_header_without_settings_names_no_format():
    for header in ({}, {"quantizer": None}, {"quantizer": "uniform"}):
        with pytest.raises(MessageError, match="unknown quantizer"):
            format_of(header)
