"""Tuning after rounding: closer to the original, the codes as they were, and everything on the message's grids."""

import json

import numpy as np
import pytest
import torch
from tokenbounds.compression.calibration.layers import matrices_of
from tokenbounds.compression.calibration.store import Calibration
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.posttraining import tuning
from tokenbounds.compression.posttraining.tuned_layers import TunedModel
from tokenbounds.compression.posttraining.tuning import tune
from tokenbounds.compression.transformer import load_subject
from tokenbounds.config import CalibrationSpec, MessageSpec, parse_row
from tokenbounds.config.quantizers import Tuning
from tokenbounds.messages.decode import decode_format, decode_message
from tokenbounds.models.build import build_model, coded_shapes

CALIBRATION = CalibrationSpec(model="m", corpus="c", tokens=384, context=16, batch_tokens=64)
FAMILIES = ("gpt2", "llama", "qwen2")  # biases and positions; an untied head; a tied table with biases


def encode(directory, calibration, path, tuned=None, centred=False):
    quantizer = {"kind": "watersic", "calibration": "c", "target": {"scale": 0.01}, "tuning": tuned}
    quantizer["centred_tables"] = centred
    spec = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": quantizer}))
    return encode_model(directory, spec, path, path.with_suffix(".json"), calibration=calibration)


@pytest.fixture(scope="module")
def rounded(calibrate, tmp_path_factory):
    """A function family -> the original, its codes and scales after rounding, the calibrated windows."""
    folder, made = tmp_path_factory.mktemp("rounded"), {}

    def make(family):
        if family not in made:
            directory, calibration = calibrate(family, CALIBRATION)
            subject = load_subject(directory, "dense", [])
            message = encode(directory, calibration, folder / f"{family}.tbm")
            scaled = decode_format(message, coded_shapes(subject.card))
            made[family] = subject, scaled, Calibration.open(calibration).windows()
        return made[family]

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_tuning_brings_predictions_closer_and_leaves_the_codes(rounded, family):
    subject, scaled, windows = rounded(family)
    few = tuple(each[:12] for each in windows)  # too few to keep any apart: judged where it is trained
    tuned, record = tune(scaled, subject, few, Tuning(passes=8, batch_tokens=64, learning_rate=0.02))
    assert record["kept"] and record["after"]["kl_bits"] < 0.8 * record["before"]["kl_bits"]
    moved = 0
    for name, matrix in scaled.matrices.items():
        assert np.array_equal(matrix.codes, tuned.matrices[name].codes)
        moved += int(np.count_nonzero(matrix.row_exponents != tuned.matrices[name].row_exponents))
    assert moved and any(
        not np.array_equal(codes, tuned.vectors.codes[name]) for name, codes in scaled.vectors.codes.items()
    )


@pytest.mark.parametrize("centred", [False, True])
def test_a_tuned_message_decodes_to_the_model_that_was_tuned(calibrate, tmp_path, centred):
    directory, calibration = calibrate("gpt2", CALIBRATION)
    settings = {"passes": 3, "batch_tokens": 64, "learning_rate": 0.01}
    message = encode(directory, calibration, tmp_path / "m.tbm", settings, centred)
    assert message.header["quantizer"].get("centred") == ([0, 1] if centred else None)
    record = json.loads((tmp_path / "m.json").read_text())["quantization"]["tuning"]
    assert record["steps"] == 18 and record["judged_tokens"] == 16
    subject = load_subject(directory, "dense", [])
    scaled = decode_format(message, coded_shapes(subject.card))
    again = TunedModel(build_model(subject.card), scaled, matrices_of(subject.model), torch.float32)
    ids = torch.arange(2, 18)[None]
    with torch.no_grad():
        expected = decode_message(tmp_path / "m.tbm")(ids).logits
        assert torch.allclose(again.model(ids).logits, expected, atol=1e-4)
        # A step that is off by an eighth of an octave is seen.
        again._tuned[next(iter(scaled.matrices))].columns.moved += 0.125
        assert not torch.allclose(again.model(ids).logits, expected, atol=1e-4)


def test_what_does_not_help_is_not_kept(rounded):
    subject, scaled, windows = rounded("llama")
    tuned, record = tune(scaled, subject, windows, Tuning(passes=1, batch_tokens=64, learning_rate=4.0))
    assert tuned is scaled and not record["kept"]


def test_windows_that_judge_are_not_trained_on(rounded, monkeypatch):
    subject, scaled, (inputs, targets) = rounded("llama")
    seen = []
    monkeypatch.setattr(tuning, "_train", lambda pupils, tuned, ids, targets, spec: seen.append(ids.numpy()) or 0)
    tune(scaled, subject, (inputs, targets), Tuning())
    apart = np.delete(inputs, np.s_[15::16], axis=0)
    assert len(inputs) >= 16 and np.array_equal(seen[0], apart)
    tune(scaled, subject, (inputs, targets), Tuning(tokens=18 * inputs.shape[1] - 1))
    assert np.array_equal(seen[1], apart[:17])
