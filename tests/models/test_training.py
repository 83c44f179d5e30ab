"""Training: the loss, the schedule, resuming after a kill, precisions, several processes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from small_training import PARAMETERIZATIONS, FakeCorpus, Kill, make_spec
from tokenbounds.config import Dense, SubLora, Training
from tokenbounds.models.build import build_model, coded_parameters, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint
from tokenbounds.models.loss import summed_loss_nats
from tokenbounds.models.training.data import BlockSampler
from tokenbounds.models.training.train import learning_rate_factor, train_model
from transformers import TrainerCallback
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

torch.set_num_threads(1)

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


# --- several processes ------------------------------------------------------------------------------------------------

PATTERN = [[1 + (3 * number) % 7 for number in range(200)]]
TWICE = (Dense(kind="dense"), SubLora(kind="sublora", dimension=100, rank=2))
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from small_training import FakeCorpus, make_spec
from test_training import PATTERN, TWICE
from tokenbounds.models.training.train import train_model
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
        # Sums of two halves are rounded differently from one sum. Weights themselves may differ where they do not
        # matter: Adam makes steps of what rounding leaves of the gradient of a key's bias, which is zero.
        torch.testing.assert_close(one(ids).logits, two(ids).logits, rtol=1e-3, atol=1e-3)
        curves = [
            pq.read_table(tmp_path / name / row.kind / "training.parquet")["loss_bits"] for name in ("one", "two")
        ]
        assert curves[0].to_pylist() == pytest.approx(curves[1].to_pylist(), rel=1e-4)
