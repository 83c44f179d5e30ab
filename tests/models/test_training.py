"""Training: the batches, the schedule, resuming after a kill, and divergence."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from tokenbounds.config import (
    Architecture,
    Dense,
    Kronecker,
    KroneckerSubspace,
    Lora,
    Monarch,
    SubLora,
    Subspace,
    TrainedModel,
    Training,
)
from tokenbounds.errors import ModelError, TokenboundsError
from tokenbounds.models.architecture import card_from_spec
from tokenbounds.models.build import build_model, coded_parameters, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint
from tokenbounds.models.data import BlockSampler
from tokenbounds.models.loss import summed_loss_nats
from tokenbounds.models.start import initial_model
from tokenbounds.models.training import learning_rate_factor, train_model
from transformers import TrainerCallback
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

torch.set_num_threads(1)


class FakeCorpus:
    """A corpus in memory."""

    def __init__(self, documents, vocabulary_size=32, start_id=0):
        self._documents = [np.asarray(document, dtype=np.uint16) for document in documents]
        self.lengths = np.array([len(document) for document in documents], dtype=np.int64)
        self.vocabulary_size, self.start_id = vocabulary_size, start_id
        self.manifest = SimpleNamespace(shards=(SimpleNamespace(sha256=str(self.lengths.tolist())),))

    def document(self, number):
        return self._documents[number]


@pytest.fixture
def corpus():
    generator = np.random.default_rng(0)
    return FakeCorpus([generator.integers(1, 8, size=size) for size in (3, 40, 0, 200, 17)])


def make_spec(parameterization=None, **training):
    defaults = {"steps": 6, "batch_tokens": 64, "learning_rate": 1e-2, "save_steps": 2}
    return TrainedModel(
        kind="trained",
        corpus="c",
        architecture=Architecture(layers=1, hidden=16, heads=2, context=16),
        parameterization=parameterization or Dense(kind="dense"),
        training=Training(**{**defaults, **training}),
        seed=5,
    )


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batch_of_one_short_document_by_hand():
    sampler = BlockSampler(FakeCorpus([[5, 6, 7]], start_id=9), context=5, batch_tokens=10, seed=0)
    inputs, targets = sampler.batch(0)
    assert inputs.tolist() == [[9, 5, 6, 9, 9]] * 2
    assert targets.tolist() == [[5, 6, 7, -100, -100]] * 2


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any),
    context=st.integers(1, 8),
    number=st.integers(0, 10**6),
)
def test_every_row_is_a_window_of_one_document(lengths, context, number):
    offsets = np.cumsum([0, *lengths])
    documents = [np.arange(1, size + 1) + offset for size, offset in zip(lengths, offsets, strict=False)]
    inputs, targets = BlockSampler(FakeCorpus(documents), context, 4 * context, seed=1).batch(number)
    assert inputs.dtype == targets.dtype == np.int64
    for row_in, row_out in zip(inputs, targets, strict=True):
        count = int((row_out != -100).sum())
        assert np.all(row_out[count:] == -100) and count >= 1
        document = next(d for d in documents if row_out[0] in d)
        first = int(row_out[0] - document[0])
        assert row_out[:count].tolist() == document[first : first + count].tolist()
        assert count == min(context, len(document))
        assert row_in[0] == (0 if first == 0 else document[first - 1])
        assert row_in[1:count].tolist() == row_out[: count - 1].tolist()


def test_batches_depend_on_seed_and_number_alone(corpus):
    one = BlockSampler(corpus, 8, 64, seed=1)
    later = iter(BlockSampler(corpus, 8, 64, seed=1))
    for number in range(3):
        for expected, got in zip(one.batch(number), next(later), strict=True):
            assert np.array_equal(expected, got)
    assert not np.array_equal(one.batch(0)[0], one.batch(1)[0])
    assert not np.array_equal(one.batch(0)[0], BlockSampler(corpus, 8, 64, seed=2).batch(0)[0])


def test_tokens_are_drawn_about_uniformly():
    documents = [np.arange(0, 90), np.arange(90, 100)]
    sampler = BlockSampler(FakeCorpus(documents), context=5, batch_tokens=5000, seed=0)
    counts = np.bincount(sampler.batch(0)[1].ravel(), minlength=100)
    assert abs(counts[90:].sum() / counts.sum() - 0.1) < 0.04
    assert counts.min() > 0


def test_empty_corpus_is_refused():
    with pytest.raises(ModelError, match="no tokens"):
        BlockSampler(FakeCorpus([[], []]), 4, 8, seed=0)


# --- loss and schedule ------------------------------------------------------------------------------------------------


def test_loss_in_chunks_equals_loss_at_once(monkeypatch):
    card = ModelCard("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2}, vocabulary_size=11, start_id=0, context=8)
    model = build_model(card).double()
    initialize(model, 0)
    inputs = torch.arange(16).reshape(2, 8) % 11
    targets = torch.where(inputs % 5 == 0, -100, inputs)
    gradients = []
    for limit in (1 << 25, 40):
        monkeypatch.setattr("tokenbounds.models.loss._CHUNK_LOGITS", limit)
        model.zero_grad()
        loss = summed_loss_nats(model, inputs, targets)
        loss.backward()
        gradients.append((loss.item(), model.transformer.wte.weight.grad.clone()))
    logits = model(inputs).logits.log_softmax(-1)
    reference = -sum(logits[b, t, targets[b, t]].item() for b in range(2) for t in range(8) if targets[b, t] >= 0)
    assert gradients[0][0] == pytest.approx(reference, rel=1e-6)
    assert gradients[1][0] == pytest.approx(reference, rel=1e-6)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-4, atol=1e-6)


def test_schedule_by_hand():
    training = Training(steps=10, warmup_fraction=0.2)
    factors = [learning_rate_factor(step, training) for step in range(11)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[6] == pytest.approx(0.5)
    assert factors[10] == pytest.approx(0.0)
    assert factors[2:] == sorted(factors[2:], reverse=True)


# --- training ---------------------------------------------------------------------------------------------------------


class Kill(TrainerCallback):
    """Raises as a kill would, in the given step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


PARAMETERIZATIONS = (
    Dense(kind="dense"),
    Lora(kind="lora", rank=2, targets=("mlp", "head")),
    Kronecker(kind="kronecker", initialization="dense_projection"),
    Monarch(kind="monarch", blocks=2),
    Subspace(kind="subspace", dimension=100),
    SubLora(kind="sublora", dimension=100, rank=2),
    KroneckerSubspace(kind="kronecker_subspace", dimension=100, covers=("attention", "mlp")),
)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=lambda row: row.kind)
def test_resumed_training_ends_with_the_same_weights(tmp_path, corpus, parameterization):
    spec = make_spec(parameterization)
    train_model(spec, corpus, tmp_path / "whole", tmp_path / "work-a")
    with pytest.raises(KeyboardInterrupt):
        train_model(spec, corpus, tmp_path / "resumed", tmp_path / "work-b", callbacks=(Kill(5),))
    assert not (tmp_path / "resumed").exists()
    assert (tmp_path / "work-b" / "checkpoint-4" / "model.safetensors").is_file()
    assert not list((tmp_path / "work-b").rglob("*.bin"))
    started = Started()
    train_model(spec, corpus, tmp_path / "resumed", tmp_path / "work-b", callbacks=(started,))
    assert started.step == 4
    for name in ("model.safetensors", "card.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    curves = [pq.read_table(tmp_path / run / "training.parquet") for run in ("whole", "resumed")]
    assert curves[0].equals(curves[1])
    assert curves[0]["step"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "work-a").exists()


class Started(TrainerCallback):
    """Notes the step training starts from."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.step = state.global_step


def test_state_of_another_spec_or_half_written_is_not_gone_on_from(tmp_path, corpus):
    with pytest.raises(KeyboardInterrupt):
        train_model(make_spec(), corpus, tmp_path / "model", tmp_path / "work", callbacks=(Kill(5),))
    (tmp_path / "work" / "checkpoint-4" / "trainer_state.json").write_text('{"cut')
    started = Started()
    with pytest.raises(KeyboardInterrupt):
        train_model(make_spec(), corpus, tmp_path / "model", tmp_path / "work", callbacks=(started, Kill(3)))
    assert started.step == 2
    train_model(make_spec(learning_rate=2e-2), corpus, tmp_path / "model", tmp_path / "work", callbacks=(started,))
    assert started.step == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_lowers_the_loss(tmp_path, corpus, dtype):
    spec = make_spec(steps=20, dtype=dtype, gradient_checkpointing=dtype == "bfloat16", weight_decay=0.1)
    train_model(spec, corpus, tmp_path / "model", tmp_path / "work")
    curve = pq.read_table(tmp_path / "model" / "training.parquet")
    losses = curve["loss_bits"].to_pylist()
    assert losses[0] == pytest.approx(5.0, abs=0.6)
    assert losses[-1] < losses[0] - 1
    model, card = load_checkpoint(tmp_path / "model")
    assert card.vocabulary_size == 32
    assert all(value.dtype == torch.float32 for value in coded_parameters(model).values())
    inputs, targets = map(torch.from_numpy, BlockSampler(corpus, 16, 640, seed=9).batch(0))
    loss = summed_loss_nats(model, inputs, targets).item() / int((targets != -100).sum()) / math.log(2)
    assert loss == pytest.approx(losses[-1], abs=0.7)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=lambda row: row.kind)
def test_gradient_checkpointing_computes_activations_twice_and_changes_nothing(
    tmp_path, corpus, monkeypatch, parameterization
):
    calls, curves, weights = [], [], []
    attention = GPT2Attention.forward

    def counted(self, *args, **kwargs):
        calls[-1] += 1
        return attention(self, *args, **kwargs)

    monkeypatch.setattr(GPT2Attention, "forward", counted)
    for checkpointing in (False, True):
        calls.append(0)
        folder = tmp_path / str(checkpointing)
        spec = make_spec(parameterization, steps=4, gradient_checkpointing=checkpointing)
        train_model(spec, corpus, folder, tmp_path / "work")
        curves.append(pq.read_table(folder / "training.parquet")["loss_bits"].to_pylist())
        weights.append(coded_parameters(load_checkpoint(folder)[0]))
    assert calls == [4, 8]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS[2:], ids=lambda row: row.kind)
def test_every_parameterization_trains_in_bfloat16(tmp_path, corpus, parameterization):
    spec = make_spec(parameterization, steps=15, dtype="bfloat16", learning_rate=3e-2)
    train_model(spec, corpus, tmp_path / "model", tmp_path / "work")
    losses = pq.read_table(tmp_path / "model" / "training.parquet")["loss_bits"].to_pylist()
    assert losses[-1] < losses[0] - 0.5
    assert all(
        value.dtype == torch.float32 for value in coded_parameters(load_checkpoint(tmp_path / "model")[0]).values()
    )


# --- where training starts from ---------------------------------------------------------------------------------------


def test_training_starts_from_the_nearest_factors_of_another_model(tmp_path, corpus):
    train_model(make_spec(steps=30), corpus, tmp_path / "dense", tmp_path / "work")
    for parameterization in (
        Dense(kind="dense"),
        Kronecker(kind="kronecker", terms=9),
        Monarch(kind="monarch", blocks=1),
    ):
        spec = make_spec(parameterization)
        card = card_from_spec(spec, vocabulary_size=32, start_id=0)
        model, dense = initial_model(spec, card, tmp_path / "dense"), load_checkpoint(tmp_path / "dense")[0]
        drawn = initial_model(spec, card)
        batch = tuple(map(torch.from_numpy, BlockSampler(corpus, 16, 640, seed=9).batch(0)))
        losses = [summed_loss_nats(each, *batch).item() for each in (model, dense, drawn)]
        assert losses[0] < 0.5 * (losses[1] + losses[2]), parameterization
        if parameterization.kind != "kronecker":  # one block, or none, can say everything
            assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_projection_of_drawn_values_is_not_the_drawn_factors():
    rows = [Kronecker(kind="kronecker", initialization=kind) for kind in ("random", "dense_projection")]
    models = [
        initial_model(make_spec(row), card_from_spec(make_spec(row), vocabulary_size=32, start_id=0)) for row in rows
    ]
    dense = initial_model(make_spec(), card_from_spec(make_spec(), vocabulary_size=32, start_id=0))
    wanted = dense.transformer.h[0].mlp.c_fc.weight.T
    errors = [(each.transformer.h[0].mlp.c_fc.dense_weight() - wanted).square().sum() for each in models]
    assert errors[1] < wanted.square().sum() < errors[0]
    assert torch.equal(models[1].transformer.wte.weight, dense.transformer.wte.weight)


def test_a_start_of_another_shape_names_the_tensor(tmp_path, corpus):
    train_model(make_spec(steps=1), corpus, tmp_path / "dense", tmp_path / "work")
    row = make_spec(Kronecker(kind="kronecker"))
    wide = TrainedModel(**{**row.__dict__, "architecture": Architecture(layers=1, hidden=32, heads=2, context=16)})
    with pytest.raises(ModelError, match=r"the start .*dense: its tensor transformer\.wte\.weight is \[32, 16\], not"):
        train_model(wide, corpus, tmp_path / "model", tmp_path / "work", start=tmp_path / "dense")


# --- several processes ------------------------------------------------------------------------------------------------

PATTERN = [[1 + (3 * number) % 7 for number in range(200)]]
TWICE = (Dense(kind="dense"), SubLora(kind="sublora", dimension=100, rank=2))
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_training import FakeCorpus, make_spec, PATTERN, TWICE
from tokenbounds.models.training import train_model
for row in TWICE:
    train_model(make_spec(row, steps=4), FakeCorpus(PATTERN), Path({out!r}) / row.kind, Path({out!r}) / "work")
"""


def test_two_processes_compute_what_one_does(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), out=str(tmp_path / "two")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(launch, check=True, env=environment, capture_output=True, timeout=300)
    ids = torch.arange(16)[None] % 8
    for row in TWICE:
        train_model(make_spec(row, steps=4), FakeCorpus(PATTERN), tmp_path / "one" / row.kind, tmp_path / "work")
        one, two = (load_checkpoint(tmp_path / name / row.kind)[0] for name in ("one", "two"))
        # Sums of two halves are rounded otherwise than one sum. Weights themselves may differ where they do not matter:
        # Adam makes steps of what rounding leaves of the gradient of a key's bias, which is zero.
        torch.testing.assert_close(one(ids).logits, two(ids).logits, rtol=1e-3, atol=1e-3)
        curves = [
            pq.read_table(tmp_path / name / row.kind / "training.parquet")["loss_bits"] for name in ("one", "two")
        ]
        assert curves[0].to_pylist() == pytest.approx(curves[1].to_pylist(), rel=1e-4)


def test_divergence_names_the_step(tmp_path, corpus):
    with pytest.raises(ModelError, match=r"the loss of step \d+ is (nan|inf)"):
        train_model(make_spec(learning_rate=1e30, steps=40), corpus, tmp_path / "model", tmp_path / "work")
    assert not Path(tmp_path / "model").exists()


def test_gpt2_refuses_key_value_heads(tmp_path, corpus):
    spec = make_spec()
    spec = TrainedModel(**{**spec.__dict__, "architecture": Architecture(heads=4, key_value_heads=2)})
    with pytest.raises(ModelError, match="key_value_heads"):
        train_model(spec, corpus, tmp_path / "model", tmp_path / "work")


# --- a full disk ------------------------------------------------------------------------------------------------------


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
