"""Row and column steps: hand-computed values, exact round trips, hostile tables refused."""

from dataclasses import replace

import numpy as np
import pytest
from tokenbounds.compression.grids import join_scaled
from tokenbounds.compression.posttraining.roundings import rms_exponents, round_plainly
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import encode_planes
from tokenbounds.messages.coding.trellis import grid_points, trellis
from tokenbounds.messages.container import Part, parse_message, render_message
from tokenbounds.messages.formats.rotated import RotatedFormat
from tokenbounds.messages.formats.scaled import (
    Centre,
    ScaledFormat,
    ScaledMatrix,
    decode_scales,
    encode_scales,
    exponents_of,
    steps_of,
)
from tokenbounds.models.pretrained.hadamard import rotate_weight

RNG = np.random.default_rng(0)
TENSORS = {
    "wte.weight": RNG.normal(size=(20, 12)).astype(np.float32),
    "ln.weight": (1 + 0.1 * RNG.normal(size=12)).astype(np.float32),
    "c_fc.weight": (0.01 * RNG.standard_t(3, size=(12, 48))).astype(np.float32),
}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}


def ints(*values):
    return np.array(values, dtype=np.int32)


def scaled(tensors, ratio):
    """Matrices rounded to nearest, one step per row."""
    matrices = {
        name: round_plainly(tensor, rms_exponents(tensor, ratio, "row"), np.zeros(tensor.shape[1], dtype=np.int32))
        for name, tensor in tensors.items()
        if tensor.ndim == 2
    }
    return join_scaled(tensors, matrices)


def test_values_by_hand():
    matrix = ScaledMatrix(np.array([[1, -2], [3, 0]], dtype=np.int32), ints(0, 8), ints(-8, 16))
    assert matrix.values().tolist() == [[0.5, -8.0], [3.0, 0.0]]
    assert matrix.values().dtype == np.float32
    assert matrix.transpose().values().tolist() == [[0.5, 3.0], [-8.0, 0.0]]


def test_steps_are_on_the_grid_and_products_stay_normal():
    assert steps_of(ints(-8, 0, 8)).tolist() == [0.5, 1.0, 2.0]
    assert exponents_of(np.array([0.5, 1.0, 1.04, 1e-40, 1e40])).tolist() == [-8, 0, 0, -496, 496]
    least = steps_of(ints(-496)) * steps_of(ints(-496))
    assert least[0] >= np.finfo(np.float32).tiny
    assert np.isfinite(steps_of(ints(496)) * steps_of(ints(496)))[0]


@pytest.mark.parametrize("coder", ["adaptive", "static"])
def test_parts_come_back_exactly(coder):
    quantized = scaled(TENSORS, 0.5)
    message = parse_message(render_message({}, quantized.to_parts(coder)))
    decoded = ScaledFormat.from_message(message, SHAPES, coder)
    for name, value in quantized.dequantize().items():
        assert value.tobytes() == decoded.dequantize()[name].tobytes()
        assert np.abs(value - TENSORS[name]).max() <= 0.3 * np.sqrt(np.mean(TENSORS[name] ** 2)) * 8


def test_scale_tables_come_back_and_constant_ones_cost_little():
    matrices = [
        ScaledMatrix(
            np.zeros((300, 200), dtype=np.int32), RNG.integers(-30, 30, 300).astype(np.int32), ints(*[7] * 200)
        ),
        ScaledMatrix(np.zeros((5, 4), dtype=np.int32), ints(*[-496] * 5), ints(*[496] * 4)),
    ]
    pairs, vectors, centres = decode_scales(encode_scales(matrices, [-512, 511]), [(300, 200), (5, 4)], 2)
    assert vectors == [-512, 511] and not centres
    for matrix, (rows, columns) in zip(matrices, pairs, strict=True):
        assert np.array_equal(rows, matrix.row_exponents)
        assert np.array_equal(columns, matrix.column_exponents)
    constant = [ScaledMatrix(np.zeros((1, 1), dtype=np.int32), ints(*[k] * 5000), ints(0)) for k in range(4)]
    assert len(encode_scales(constant, [])) < 40


@pytest.mark.parametrize("exponent", [497, -497, 1 << 20, -(1 << 29)])
def test_exponents_out_of_range_are_refused(exponent):
    planes = [np.array([[exponent, 0]]), np.zeros((1, 0), dtype=np.int64), np.zeros((1, 3)), np.zeros((1, 2))]
    with pytest.raises(MessageError, match="exponent"):
        decode_scales(encode_planes(planes), [(3, 2)], 0)
    vectors = [np.zeros((1, 2)), np.array([[exponent + np.sign(exponent) * 20]]), np.zeros((1, 3)), np.zeros((1, 2))]
    with pytest.raises(MessageError, match="vector's step"):
        decode_scales(encode_planes(vectors), [(3, 2)], 1)


def test_damaged_tables_give_tables_or_the_one_error():
    quantized = scaled(TENSORS, 0.5)
    scales, symbols = quantized.to_parts("adaptive")
    for _ in range(300):
        damaged = bytearray(scales.data)
        damaged[RNG.integers(len(damaged))] = RNG.integers(256)
        message = parse_message(render_message({}, [Part("scales", bytes(damaged)), symbols]))
        try:
            decoded = ScaledFormat.from_message(message, SHAPES, "adaptive")
        except MessageError:
            continue
        with np.errstate(over="ignore"):
            assert {name: value.shape for name, value in decoded.dequantize().items()} == SHAPES


def centred(tensors, ratio):
    """As `scaled`, the first matrix as differences from a row."""
    plain = scaled(tensors, ratio)
    name, matrix = next(iter(plain.matrices.items()))
    centre = Centre(RNG.integers(-40, 40, len(matrix.column_exponents)).astype(np.int32), -32)
    return ScaledFormat(plain.shapes, {**plain.matrices, name: replace(matrix, centre=centre)}, plain.vectors), centre


def test_a_centre_is_added_to_every_row():
    matrix = ScaledMatrix(np.array([[1, -2], [3, 0]], dtype=np.int32), ints(0, 8), ints(-8, 16), 0, False, None)
    centre = Centre(ints(3, -1), 8)
    assert centre.values().tolist() == [6.0, -2.0]
    assert replace(matrix, centre=centre).values().tolist() == [[6.5, -10.0], [9.0, -2.0]]


@pytest.mark.parametrize("coder", ["adaptive", "static"])
def test_centres_come_back_exactly_and_only_where_the_header_says(coder):
    quantized, centre = centred(TENSORS, 0.5)
    assert quantized.header() == {"kind": "scaled", "centred": [0]}
    parts = quantized.to_parts(coder)
    message = parse_message(render_message({"quantizer": quantized.header()}, parts))
    decoded = ScaledFormat.from_message(message, SHAPES, coder)
    assert decoded.header() == quantized.header()
    for name, value in quantized.dequantize().items():
        assert value.tobytes() == decoded.dequantize()[name].tobytes()
    difference = quantized.dequantize()["wte.weight"] - scaled(TENSORS, 0.5).dequantize()["wte.weight"]
    assert np.allclose(difference, centre.values(), atol=1e-5)
    other = parse_message(render_message({"quantizer": {"kind": "scaled"}}, parts))
    with pytest.raises(MessageError):  # without the list bytes are left over
        ScaledFormat.from_message(other, SHAPES, coder)


@pytest.mark.parametrize("listed", [["0"], [0.0], [True], 0, {"0": 0}])
def test_hostile_lists_of_centres_are_refused(listed):
    parts = centred(TENSORS, 0.5)[0].to_parts("adaptive")
    message = parse_message(render_message({"quantizer": {"kind": "scaled", "centred": listed}}, parts))
    with pytest.raises(MessageError, match="centre"):
        ScaledFormat.from_message(message, SHAPES, "adaptive")


@pytest.mark.parametrize("listed", [[], [0, 0], [0, 7], [-1, 0]])
def test_a_list_of_centres_is_as_the_format_writes_it(listed):
    parts = centred(TENSORS, 0.5)[0].to_parts("adaptive")
    message = parse_message(render_message({"quantizer": {"kind": "scaled", "centred": listed}}, parts))
    with pytest.raises(MessageError):
        ScaledFormat.from_message(message, SHAPES, "adaptive").check_header(message)


GOLDEN = "f7414d679cdf80"
GOLDEN_CENTRED = "f7423fac920cb5842078"


def test_golden_bytes_of_scales():
    matrices = [ScaledMatrix(np.zeros((3, 2), dtype=np.int32), ints(3, 4, 3), ints(-40, 2))]
    assert encode_scales(matrices, [5]).hex() == GOLDEN
    assert encode_scales([replace(matrices[0], centre=Centre(ints(3, -2), -40))], [5]).hex() == GOLDEN_CENTRED


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": -1, "plain": []},
        {"seed": 1 << 63, "plain": []},
        {"seed": True, "plain": []},
        {"seed": 0},
        {"seed": 0, "plain": ["x"]},
        {"seed": 0, "plain": 3},
    ],
)
def test_hostile_rotations_are_refused(settings):
    parts = scaled(TENSORS, 0.5).to_parts("adaptive")
    message = parse_message(render_message({"quantizer": {"kind": "rotated", **settings}}, parts))
    with pytest.raises(MessageError):
        RotatedFormat.from_message(message, SHAPES, "adaptive")


def test_rotated_matrices_come_back_and_plain_ones_stay():
    rotated = {**TENSORS, "c_fc.weight": rotate_weight(TENSORS["c_fc.weight"], 3, "c_fc.weight")}
    plain = scaled(rotated, 0.01)
    values = RotatedFormat(plain, 3, (0,)).dequantize()
    for name, tensor in TENSORS.items():
        assert np.abs(values[name] - tensor).max() < 0.05 * np.abs(tensor).max()
    assert values["wte.weight"].tobytes() == plain.dequantize()["wte.weight"].tobytes()


@pytest.mark.parametrize("coder", ["adaptive", "static"])
@pytest.mark.parametrize("transposed", [False, True])
def test_trellis_points_come_back_exactly(coder, transposed):
    machine = trellis(8)
    points = grid_points(RNG.integers(-4, 4, (12, 20) if transposed else (20, 12)), machine).astype(np.int32)
    sides = (ints(*range(12)), ints(*range(20)))
    on_trellis = ScaledMatrix(points, *sides, 8).transpose() if transposed else ScaledMatrix(points, *sides[::-1], 8)
    matrices = {"wte.weight": on_trellis}
    matrices["c_fc.weight"] = ScaledMatrix(
        RNG.integers(-3, 4, (12, 48)).astype(np.int32), ints(*[0] * 12), ints(*[0] * 48)
    )
    quantized = join_scaled(TENSORS, matrices)
    expected = {"kind": "scaled", "trellis": 8, "plain": [1]}
    assert quantized.header() == (expected | {"turned": [0]} if transposed else expected)
    message = parse_message(render_message({"quantizer": quantized.header()}, quantized.to_parts(coder)))
    decoded = ScaledFormat.from_message(message, SHAPES, coder)
    assert decoded.header() == quantized.header()
    for name, value in quantized.dequantize().items():
        assert value.tobytes() == decoded.dequantize()[name].tobytes()


BAD_TRELLISES = [
    {"trellis": 16},
    {"trellis": True},
    {"trellis": "8"},
    {"trellis": 8, "plain": [0.5]},
    {"trellis": 8, "turned": 1},
]


@pytest.mark.parametrize("settings", BAD_TRELLISES)
def test_hostile_trellises_are_refused(settings):
    parts = scaled(TENSORS, 0.5).to_parts("adaptive")
    message = parse_message(render_message({"quantizer": {"kind": "scaled", **settings}}, parts))
    with pytest.raises(MessageError):
        ScaledFormat.from_message(message, SHAPES, "adaptive")
