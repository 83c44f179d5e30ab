"""Rounding with torch, several matrices at a time: the codes of the compiled path, on a processor and on a GPU."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenbounds.compression.calibration.layers import Matrix
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.posttraining import feedback_on_device, quantize, roundings, viterbi_on_device
from tokenbounds.compression.posttraining.feedback import FeedbackTask
from tokenbounds.compression.posttraining.feedback_on_device import round_on_device
from tokenbounds.compression.posttraining.kept_roundings import KeptRounding
from tokenbounds.compression.posttraining.ldlq import LdlFactor, ldl_factor
from tokenbounds.compression.posttraining.rates import RateModel
from tokenbounds.compression.posttraining.roundings import RoundToNearest, Unrounded, round_plainly
from tokenbounds.compression.posttraining.viterbi import quantize_sequences
from tokenbounds.compression.posttraining.viterbi_on_device import DeviceViterbi
from tokenbounds.config import CalibrationSpec, MessageSpec, parse_row
from tokenbounds.messages.coding.trellis import codes_of, grid_points, trellis
from tokenbounds.messages.formats.scaled import exponents_of

CPU = torch.device("cpu")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_GPU])]
RULES = {"nearest": None, "cost": 0, "trellis": 8}


def task(rule, outputs, inputs, seed=0):
    """A heavy-tailed weight with correlated inputs, some of whose codes are beyond the magnitudes with prices."""
    rng = np.random.default_rng(seed)
    mix = np.eye(inputs) + 0.7 * rng.normal(size=(inputs, inputs)) / np.sqrt(inputs)
    seen = rng.normal(size=(4 * inputs, inputs)) @ mix
    factor = ldl_factor(seen.T @ seen / len(seen), 1e-3)
    weight = rng.standard_t(3, size=(outputs, inputs)).astype(np.float32)
    weight[0, 0] = 200.0
    steps = exponents_of(np.exp(0.3 * rng.normal(size=outputs))), exponents_of(1 / np.sqrt(factor.diagonal))
    if (states := RULES[rule]) is None:
        return FeedbackTask(weight, factor, *steps)
    rates = RateModel.fit(round_plainly(weight, *steps).codes, grids=2 if states else 1)
    return FeedbackTask(weight, factor, *steps, rates, 0.36 if states else 0.12, states)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(1, 3), (6, 150), (37, 20)])  # one column, more than a panel, an odd length
def test_codes_are_those_of_the_compiled_path(rule, shape, device):
    tasks = [task(rule, *shape, seed=seed) for seed in range(2)]
    rounded = round_on_device(tasks, torch.device(device))
    for expected, found in zip(map(FeedbackTask.round, tasks), rounded, strict=True):
        assert np.array_equal(expected.codes, found.codes) and found.codes.dtype == np.int32
        assert np.abs(found.codes).max() > 64 and found.states == expected.states


def test_feedback_that_stays_in_its_panel_is_noticed(monkeypatch):
    monkeypatch.setattr(feedback_on_device, "PANEL", 64)
    one = task("nearest", 6, 150)
    expected = one.round().codes
    assert np.array_equal(expected, round_on_device([one], CPU)[0].codes)  # the size of panels changes nothing
    panel = np.arange(150) // 64
    inside = LdlFactor(one.factor.feedback * (panel[:, None] == panel), one.factor.diagonal)
    assert not np.array_equal(expected, round_on_device([replace(one, factor=inside)], CPU)[0].codes)


@pytest.mark.parametrize("states", [8, 32])
@pytest.mark.parametrize("length", [1, 2, 7, 24])
@pytest.mark.parametrize("at_once", [1, 1 << 27])  # however few summands of a product are in memory
def test_paths_are_the_cheapest_that_the_machine_allows(states, length, at_once, monkeypatch):
    monkeypatch.setattr(viterbi_on_device, "_PRODUCT_VALUES", at_once)
    points, expected = paths(states, length)
    assert np.array_equal(points, expected)
    assert np.array_equal(grid_points(codes_of(points), trellis(states)), points)


def paths(states, length):
    """Grid points [length, 3] by the search of a device and by the compiled one, of the same values."""
    rng, machine = np.random.default_rng(length), trellis(states)
    values, lengths = 20 * rng.standard_t(2, size=(length, 3)), np.sort(rng.uniform(1, 12, size=(3, 64)), axis=1)
    bands = rng.integers(0, 3, size=values.shape)
    search = DeviceViterbi(machine, torch.from_numpy(0.4 * lengths).expand(3, 3, 64), torch.full((3,), 0.4).double())
    found = search.points(torch.from_numpy(values.T.copy()), torch.from_numpy(bands.T.copy()))
    return found.numpy().T, quantize_sequences(values, machine, lengths, 0.4, bands)


def test_states_that_are_each_the_best_at_their_place_are_no_path(monkeypatch):
    """What a wrong way back would give."""

    def careless(origins, last):
        return torch.zeros(origins.shape[:2], dtype=torch.int64)

    monkeypatch.setattr(DeviceViterbi, "_trace", staticmethod(careless))
    points, expected = paths(8, 24)
    assert not np.array_equal(grid_points(codes_of(points), trellis(8)), points)
    assert not np.array_equal(points, expected)


@pytest.mark.parametrize("kind", ["gptq", "watersic"])
def test_messages_are_those_of_the_compiled_path(calibrate, tmp_path, monkeypatch, kind):
    directory, calibration = calibrate("gpt2", CalibrationSpec(model="m", corpus="c", tokens=256, context=16))
    row = {"model": "m", "quantizer": {"kind": kind, "calibration": "c", "target": {"scale": 0.5}}}
    spec, together = parse_row(MessageSpec, json.dumps(row)), []

    def counted(tasks, device):
        together.append(len(tasks))
        return round_on_device(tasks, device)

    monkeypatch.setattr(roundings, "round_on_device", counted)

    def encode(device):
        monkeypatch.setattr(quantize, "rounding_device", lambda: device)
        return encode_model(directory, spec, tmp_path / "m", tmp_path / "r", calibration=calibration)

    compiled = encode(None)
    assert not together
    assert encode(CPU).sha256 == compiled.sha256
    assert max(together) > 1  # the same matrix of both blocks


def test_what_a_device_rounded_is_kept_like_the_rest(tmp_path):
    way = KeptRounding(RoundToNearest(), tmp_path)
    weights = {"a": np.ones((3, 4), np.float32), "b": np.full((3, 4), -2, np.float32)}
    items = [Unrounded(Matrix(name, "linear", False, "g"), weight, None) for name, weight in weights.items()]
    expected = [way.round(item.matrix, item.weight, 0.5, None).codes for item in items]
    next(tmp_path.iterdir()).unlink()
    for order in (items, items[::-1]):
        found = {
            item.matrix.name: matrix for item, matrix in zip(order, way.round_together(order, 0.5, CPU), strict=True)
        }
        assert np.array_equal(found["a"].codes, expected[0]) and np.array_equal(found["b"].codes, expected[1])
    assert len(list(tmp_path.iterdir())) == 2
