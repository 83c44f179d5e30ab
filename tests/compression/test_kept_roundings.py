"""Encodings that go on where they were interrupted: the same message, and nothing is rounded twice."""

import numpy as np
import pytest
from small_checkpoints import CONFIGS, save_noisy
from tokenbounds.compression import checkpoint
from tokenbounds.compression.calibration.layers import Matrix
from tokenbounds.compression.checkpoint import Texts, check_message, encode_checkpoint
from tokenbounds.compression.posttraining.kept_roundings import KeptRounding
from tokenbounds.compression.posttraining.rates import RateModel
from tokenbounds.compression.posttraining.roundings import RoundToNearest, SensitivitySteps, round_plainly
from tokenbounds.errors import ConfigError
from tokenbounds.models.card import ModelCard

SPEC = {"quantizer": {"kind": "watersic", "target": {"bits_per_weight": 3.0}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small LLaMA over bytes, and a text to calibrate on."""
    folder = tmp_path_factory.mktemp("resume")
    save_noisy(folder / "model", ModelCard("llama", CONFIGS["llama"], 256, 0, 32), noise=0.1)
    (folder / "text.txt").write_text("the cat sat on the mat and " * 40)
    return folder


def encode(folder, name, spec=SPEC, resume=True):
    message = folder / name
    texts = Texts(calibration=folder / "text.txt")
    spec = check_message(spec, calibrated=True)
    report = encode_checkpoint(
        str(folder / "model"), spec, message, message.with_suffix(".json"), texts=texts, resume=resume
    )
    return message.read_bytes(), report


def test_an_interrupted_encoding_goes_on_and_gives_the_same_message(folder, monkeypatch):
    original, rounded, limit = SensitivitySteps.round, [], [0]

    def counted(self, matrix, *others):
        rounded.append(matrix.name)
        if len(rounded) == limit[0]:
            raise KeyboardInterrupt
        return original(self, matrix, *others)

    monkeypatch.setattr(SensitivitySteps, "round", counted)
    expected, _ = encode(folder, "whole.tbm", resume=False)
    total, limit[0] = len(rounded), 20
    rounded.clear()
    with pytest.raises(KeyboardInterrupt):
        encode(folder, "m.tbm")
    work = folder / "m.tbm.work"
    assert len(list(work.glob("*.npz"))) == 19 and (work / "calibration.safetensors").is_file()
    next(work.glob("*.npz")).write_bytes(b"PK")  # a damaged file is as good as none
    # Another target would find the wrong matrices: it is refused.
    other = {"quantizer": {"kind": "watersic", "target": {"bits_per_weight": 2.0}}}
    with pytest.raises(ConfigError, match="another model, text or quantizer"):
        encode(folder, "m.tbm", other)
    monkeypatch.setattr(checkpoint, "calibrate_model", None)  # nothing is calibrated again
    limit[0] = 0
    rounded.clear()
    found, _ = encode(folder, "m.tbm")
    assert found == expected and not work.exists()
    assert len(rounded) == total - 18


def test_code_lengths_are_part_of_what_is_kept(tmp_path):
    class Counting(SensitivitySteps):
        def __init__(self):
            self.calls = 0

        def round(self, matrix, weight, scale, rates):
            self.calls += 1
            zeros = np.zeros(weight.shape[0], np.int32), np.zeros(weight.shape[1], np.int32)
            return round_plainly(weight, *zeros)

    way = Counting()
    kept = KeptRounding(way, tmp_path)
    matrix, weight = Matrix("a", "linear", False, "a"), np.arange(12.0).reshape(3, 4).astype(np.float32) - 300
    first = kept.round(matrix, weight, 0.5, None)
    again = kept.round(matrix, weight, 0.5, None)
    assert way.calls == 1 and np.array_equal(first.codes, again.codes) and again.codes.min() == -300
    rates = RateModel.fit(first.codes)
    for arguments in ((matrix, weight, 0.25, None), (matrix, weight, 0.5, rates)):
        kept.round(*arguments)
    assert way.calls == 3


def test_another_weight_of_the_same_matrix_is_not_found(tmp_path):
    way = KeptRounding(RoundToNearest(), tmp_path)
    matrix, weight = Matrix("w", "linear", False, "g"), np.ones((3, 4), dtype=np.float32)
    first, second = (way.round(matrix, each, 0.5, None) for each in (weight, -weight))
    assert np.array_equal(first.codes, -second.codes) and len(list(tmp_path.iterdir())) == 2
