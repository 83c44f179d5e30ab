"""Quantizers: hand-computed roundings, exact grids, and parts that survive the container bit for bit."""

import numpy as np
import pytest
from tokenbounds.config.quantizers import CodebookQuantizer, UniformQuantizer
from tokenbounds.errors import MessageError
from tokenbounds.messages.container import Part, parse_message, render_message
from tokenbounds.messages.formats import quantizer_class
from tokenbounds.messages.formats.codebook import CodebookQuantized, learn_codebook, nearest_index
from tokenbounds.messages.formats.uniform import UniformQuantized, default_value, exponent_of, step_of

RNG = np.random.default_rng(0)
TENSORS = {
    "wte.weight": RNG.normal(size=(20, 12)).astype(np.float32),
    "ln.weight": (1 + 0.1 * RNG.normal(size=12)).astype(np.float32),
    "ln.bias": np.zeros(12, dtype=np.float32),
    "c_fc.weight": (0.01 * RNG.standard_t(3, size=(12, 48))).astype(np.float32),
}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}
UNIFORM = UniformQuantizer(kind="uniform", step_ratio=0.5)
CODEBOOK = CodebookQuantizer(kind="codebook", levels=8)


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
    quantized = UniformQuantized.round(tensors, {"a": -8, "n.weight": -16})
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


def test_uniform_step_follows_the_root_mean_square_and_vectors_are_finer():
    quantized = UniformQuantized.quantize(UNIFORM, TENSORS)
    error = np.abs(quantized.dequantize()["wte.weight"] - TENSORS["wte.weight"]).max()
    assert error <= 0.5 * 0.5 * 1.1 * np.sqrt(np.mean(TENSORS["wte.weight"] ** 2))
    assert np.abs(quantized.dequantize()["ln.weight"] - TENSORS["ln.weight"]).max() < 0.005
    assert not quantized.codes["ln.bias"].any()


def test_codebook_of_separated_clusters_is_their_means():
    values = np.array([-1.0, -1.5, 0.25, 0.0, 0.5, 4.0])
    assert learn_codebook(values, 3).tolist() == [-1.25, 0.25, 4.0]
    assert learn_codebook(np.full(7, 2.0), 16).tolist() == [2.0]
    assert learn_codebook(np.array([1.0, 2.0]), 16).tolist() == [1.0, 2.0]


def test_codebook_is_no_worse_than_a_uniform_grid_of_as_many_values():
    values = TENSORS["c_fc.weight"]
    book = learn_codebook(values, 8)
    error = np.mean((book[nearest_index(values, book)].astype(np.float64) - values) ** 2)
    for span in np.linspace(0.5, 4, 30) * values.std():
        grid = np.linspace(-span, span, 8)
        assert error <= 1.05 * np.mean((grid[nearest_index(values, grid)] - values) ** 2)


def test_nearest_index_matches_brute_force():
    book = np.array([-2.0, -0.5, 0.0, 3.0], dtype=np.float16)
    values = RNG.normal(size=200) * 2
    brute = np.abs(values[:, None] - book.astype(np.float64)).argmin(axis=1)
    assert np.array_equal(nearest_index(values, book), brute)


def round_trip(quantized, coder):
    data = render_message({}, quantized.to_parts(coder))
    return type(quantized).from_message(parse_message(data), SHAPES, coder)


@pytest.mark.parametrize(
    ("kind", "spec", "coder"),
    [(*row, c) for row in [("uniform", UNIFORM), ("codebook", CODEBOOK)] for c in ("adaptive", "static")],
)
def test_parts_decode_to_the_same_bits(kind, spec, coder):
    quantized = quantizer_class(kind).quantize(spec, TENSORS)
    decoded = round_trip(quantized, coder)
    before, after = quantized.dequantize(), decoded.dequantize()
    assert list(before) == list(after) == list(TENSORS)
    for name in TENSORS:
        assert before[name].dtype == after[name].dtype == np.float32
        assert before[name].tobytes() == after[name].tobytes()
    assert decoded.header() == quantized.header()
    assert all(np.array_equal(a, b) for a, b in zip(quantized.symbols(), decoded.symbols(), strict=True))


def test_unused_codebook_values_are_not_sent():
    book = np.array([-1, 0, 1, 2], dtype=np.float16)
    quantized = CodebookQuantized.assign(
        {"w": np.array([[-1.0, 1.1]], np.float32)}, {"w": book}, UniformQuantized({}, {})
    )
    assert quantized.codebooks["w"].tolist() == [-1.0, 1.0]
    assert quantized.dequantize()["w"].tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("kind", "spec"), [("uniform", UNIFORM), ("codebook", CODEBOOK)])
def test_values_that_are_not_finite_are_refused_by_name(kind, spec, bad):
    tensors = {"proj.weight": np.array([[1.0, bad]], dtype=np.float32)}
    with np.errstate(all="ignore"), pytest.raises(MessageError, match=r"proj\.weight"):
        quantizer_class(kind).quantize(spec, tensors)


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
    parts = CodebookQuantized.quantize(CODEBOOK, TENSORS).to_parts("adaptive")
    message = parse_message(render_message({}, [Part("codebooks", books), *parts[1:]]))
    with pytest.raises(MessageError):
        CodebookQuantized.from_message(message, SHAPES, "adaptive")


@pytest.mark.parametrize("kind", ["lattice", None, ["uniform"], {"kind": "uniform"}])
def test_unknown_quantizers_are_refused(kind):
    with pytest.raises(MessageError, match="unknown quantizer"):
        quantizer_class(kind)
