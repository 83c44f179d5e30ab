"""What ends a training: divergence, what an architecture cannot do, a full disk; each in one line."""

from pathlib import Path

import pytest
from safetensors import SafetensorError
from small_training import make_spec
from tokenbounds.config import Architecture, TrainedModel
from tokenbounds.errors import ModelError, TokenboundsError
from tokenbounds.models.training.train import train_model
from transformers import TrainerCallback


def test_divergence_names_the_step(tmp_path, corpus):
    with pytest.raises(ModelError, match=r"the loss of step \d+ is (nan|inf)"):
        train_model(make_spec(learning_rate=1e30, steps=40), corpus, tmp_path / "model", tmp_path / "work")
    assert not Path(tmp_path / "model").exists()


def test_gpt2_refuses_key_value_heads(tmp_path, corpus):
    spec = make_spec()
    spec = TrainedModel(**{**spec.__dict__, "architecture": Architecture(heads=4, key_value_heads=2)})
    with pytest.raises(ModelError, match="key_value_heads"):
        train_model(spec, corpus, tmp_path / "model", tmp_path / "work")


@pytest.mark.parametrize("save_steps", [2, 100])
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, corpus, monkeypatch, save_steps):
    def refuse(*args, **kwargs):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("tokenbounds.models.checkpoint.save_file", refuse)
    with pytest.raises(ModelError, match=r"cannot write .*model\.safetensors: No space left .* Free space") as caught:
        train_model(make_spec(save_steps=save_steps), corpus, tmp_path / "model", tmp_path / "work")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.tmp"))


class Fail(TrainerCallback):
    """Raises an error in the first step."""

    def __init__(self, error):
        self.error = error

    def on_step_end(self, args, state, control, **kwargs):
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), ModelError),
        (RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/1\nstack"), ModelError),
        (RuntimeError("shapes cannot be multiplied"), RuntimeError),
    ],
)
def test_a_state_that_cannot_be_saved_names_the_working_folder(tmp_path, corpus, error, expected):
    with pytest.raises(expected) as caught:
        train_model(make_spec(), corpus, tmp_path / "model", tmp_path / "work", callbacks=(Fail(error),))
    named = str(tmp_path / "work") in str(caught.value) and "\n" not in str(caught.value)
    assert named == (expected is ModelError)


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path, corpus):
    (tmp_path / "taken").write_text("")
    with pytest.raises(TokenboundsError, match=r"cannot write .*taken.*choose another folder"):
        train_model(make_spec(), corpus, tmp_path / "taken" / "model", tmp_path / "work")
    with pytest.raises(TokenboundsError, match=r"cannot write .*taken.*choose another folder"):
        train_model(make_spec(), corpus, tmp_path / "model", tmp_path / "taken" / "work")
