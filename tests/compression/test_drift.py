"""Drift: what it measures is what a dense computation gives, corrections are least squares, predictions come closer."""

import json

import numpy as np
import pytest
import torch
from tokenbounds.compression.calibration.layers import matrices_of, of_use
from tokenbounds.compression.calibration.store import Calibration
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.posttraining import drift
from tokenbounds.compression.posttraining.drift import correction
from tokenbounds.config import CalibrationSpec, MessageSpec, parse_row
from tokenbounds.errors import CalibrationError
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.checkpoint import load_checkpoint

CALIBRATION = CalibrationSpec(model="m", corpus="c", tokens=128, context=16, batch_tokens=64)
MORE = CalibrationSpec(model="m", corpus="c", tokens=384, context=16, batch_tokens=64)


def encode(directory, calibration, path, **settings):
    quantizer = {"kind": "watersic", "calibration": "c", "target": {"scale": 0.02}, **settings}
    spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": quantizer}))
    encode_model(directory, spec, path, path.with_suffix(".json"), calibration=calibration)
    return json.loads(path.with_suffix(".json").read_text())["quantization"]


def test_a_correction_is_least_squares_where_tokens_are_many():
    rng = np.random.default_rng(0)
    inputs, truth = rng.normal(size=(2, 4000, 12)), rng.normal(size=(5, 12))
    missing = inputs @ truth.T + 0.5 * rng.normal(size=(2, 4000, 5))
    found, share = correction(*_halves(inputs, missing), 1e-9)
    expected = np.linalg.lstsq(inputs.reshape(-1, 12), missing.reshape(-1, 5), rcond=None)[0].T
    assert 0.99 < share <= 1.0
    assert np.allclose(found, share * expected)


@pytest.mark.parametrize(("noise", "least", "most"), [(1.0, 0.9, 1.0), (15.0, 0.1, 0.9), (1e6, 0.0, 0.3)])
def test_what_few_tokens_do_not_confirm_is_shrunk(noise, least, most):
    rng = np.random.default_rng(1)
    inputs, truth = rng.normal(size=(2, 150, 40)), rng.normal(size=(30, 40))
    missing = inputs @ truth.T + noise * rng.normal(size=(2, 150, 30))
    found, share = correction(*_halves(inputs, missing), 1e-6)
    assert least <= share <= most
    # No other multiple of the same fit is much nearer to the truth; the whole fit is farther off.
    errors = [float(np.sum((truth - multiple * found) ** 2)) for multiple in (0.8, 1.0, 1.25, 1 / max(share, 1e-9))]
    assert errors[1] <= 1.05 * min(errors)
    assert noise != 15.0 or errors[1] < 0.9 * errors[3]


def _halves(inputs, missing):
    moments = [half.T @ half for half in inputs]
    return moments, [wanted.T @ half for half, wanted in zip(inputs, missing, strict=True)]


def watched(model, ids, names):
    """What goes into layers and residual streams, and what comes out of layers: float64 [tokens, …]."""
    seen, handles = {}, []
    for name in names:
        owner = name.rpartition(".")[0]

        def watch(module, arguments, output, name=name):
            seen[name] = [each.detach().flatten(0, -2).double().numpy() for each in (arguments[0], output)]

        handles.append(model.get_submodule(owner).register_forward_hook(watch))
    with torch.no_grad():
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    return seen, [each.flatten(0, 1).double().numpy() for each in hidden]


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_what_is_missing_is_that_of_whole_models(calibrate, tmp_path, monkeypatch, family):
    directory, calibration = calibrate(family, CALIBRATION)
    measured = []

    def keep(moments, missed):
        measured.append((sum(moments), sum(missed)))
        return correction(moments, missed)

    monkeypatch.setattr(drift, "correction", keep)
    encode(directory, calibration, tmp_path / "m.tbm", drift={"batch_tokens": 32})
    original, message = load_checkpoint(directory)[0], decode_message(tmp_path / "m.tbm")
    ids = torch.from_numpy(Calibration.open(calibration).windows()[0])
    layers = of_use(matrices_of(original), "linear")
    names = [matrix.name for matrix in layers]
    wanted, before = watched(original, ids, names)
    quantized, after = watched(message, ids, names)
    assert len(measured) == len(layers)
    for matrix, (moments, missed) in zip(layers, measured, strict=True):
        block = int(matrix.name.split(".")[2])
        inputs = quantized[matrix.name][0]
        weight = coded_parameters(original)[matrix.name].detach().double().numpy()
        # The message's output, but with the weight as it was before it was rounded.
        rounded = coded_parameters(message)[matrix.name].detach().double().numpy()
        change = (weight - rounded) if matrix.transposed else (weight - rounded).T
        missing = wanted[matrix.name][1] - (quantized[matrix.name][1] + inputs @ change)
        attention = matrix.name.replace("mlp.c_proj", "attn.c_proj").replace("mlp.down_proj", "self_attn.o_proj")
        if "o_proj" in attention or "c_proj" in attention:
            missing = missing + before[block] - after[block]
        if attention != matrix.name:
            missing = missing + wanted[attention][1] - quantized[attention][1]
        assert np.allclose(moments, inputs.T @ inputs, rtol=1e-3, atol=1e-3), matrix.name
        assert np.allclose(missed, missing.T @ inputs, rtol=1e-2, atol=1e-3 * np.abs(missed).max()), matrix.name


def distance(directory, path):
    """Mean squared difference of final hidden states from the original's, on other tokens than those calibrated on."""
    ids = torch.from_numpy(np.random.default_rng(7).integers(2, 48, (64, 16)))
    with torch.no_grad():
        states = [
            model.base_model(ids).last_hidden_state for model in (load_checkpoint(directory)[0], decode_message(path))
        ]
    return float((states[0] - states[1]).square().mean())


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_hidden_states_end_nearer_to_the_originals(calibrate, tmp_path, monkeypatch, family):
    directory, calibration = calibrate(family, MORE)
    found = {}
    for name, settings in (("without", {}), ("with", {"drift": {}}), ("against", {"drift": {}})):
        if name == "against":
            monkeypatch.setattr(drift, "correction", lambda *sums: tuple(-each for each in correction(*sums)))
        encode(directory, calibration, tmp_path / name, target={"scale": 0.1}, **settings)
        found[name] = distance(directory, tmp_path / name)
    assert found["with"] < 0.97 * found["without"] < found["against"]


def test_the_target_is_met_with_drift(calibrate, tmp_path):
    directory, calibration = calibrate("gpt2", CALIBRATION)
    settings = {"drift": {"tokens": 64}}
    record = encode(directory, calibration, tmp_path / "a", target={"bits_per_weight": 3.0}, **settings)
    assert record["linear"]["bits"] == pytest.approx(3 * record["linear"]["weights"], rel=0.01, abs=401)
    assert record["drift"]["tokens"] == 64 and len(record["drift"]["shares"]) == 8
    encode(directory, calibration, tmp_path / "b", target={"message_megabits": 0.03}, **settings)
    assert 8 * (tmp_path / "b").stat().st_size == pytest.approx(30000, abs=2500)


def test_one_window_is_too_few(calibrate, tmp_path):
    directory, calibration = calibrate("gpt2", CALIBRATION)
    with pytest.raises(CalibrationError, match="two windows"):
        encode(directory, calibration, tmp_path / "m", drift={"tokens": 16})
