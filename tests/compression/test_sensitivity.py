"""Steps by the curvature of the loss: an error of every tensor does equal harm, and no other division does less."""

import math

import numpy as np
import pytest
import torch
from tokenbounds.compression.sensitivity import exponents_by_curvature, mean_curvatures
from tokenbounds.config.quantizers import UniformQuantizer
from tokenbounds.messages.formats.grid import step_of
from tokenbounds.models.checkpoint import load_checkpoint
from tokenbounds.models.training.data import BlockSampler

RNG = np.random.default_rng(3)
TENSORS = {
    "a.weight": RNG.normal(size=(40, 50)).astype(np.float32),
    "b.weight": 0.1 * RNG.normal(size=(30, 20)).astype(np.float32),
    "norm.weight": (1 + 0.2 * RNG.normal(size=60)).astype(np.float32),
}
CURVATURES = {"a.weight": 0.02, "b.weight": 60.0, "norm.weight": 0.3}


def harm(steps):
    """What rounding adds to the loss to second order, with errors uniform in a step."""
    return sum(TENSORS[name].size * CURVATURES[name] * steps[name] ** 2 / 24 for name in TENSORS)


def spread(name):
    return math.sqrt(np.mean((TENSORS[name] - (1 if name == "norm.weight" else 0)) ** 2))


def test_no_other_steps_of_as_many_bits_add_less_to_the_loss():
    steps = {name: float(step_of(code)) for name, code in exponents_by_curvature(TENSORS, CURVATURES, 0.3).items()}
    # A bit more for a value halves its tensor's step: bits are equal where Σ size · log2(step) is.
    ratios = sum(TENSORS[name].size * math.log(steps[name] / spread(name)) for name in TENSORS)
    assert ratios / sum(tensor.size for tensor in TENSORS.values()) == pytest.approx(
        math.log(0.3), abs=math.log(2) / 16
    )
    least = harm(steps)
    for gains, loses in (("a.weight", "b.weight"), ("b.weight", "norm.weight"), ("norm.weight", "a.weight")):
        for octaves in (-1.0, 1.0):
            moved = 60 * octaves  # bits that go from one tensor to the other, in all
            changed = dict(steps)
            changed[gains] *= 2 ** (moved / TENSORS[gains].size)
            changed[loses] *= 2 ** (-moved / TENSORS[loses].size)
            assert harm(changed) > least * 0.9999, (gains, loses, octaves)
    # Steps of one ratio for all are what this improves on.
    assert least < 0.7 * harm({name: 0.3 * spread(name) for name in TENSORS})


def test_tensors_without_curvature_or_spread_and_the_widest_ratio():
    tensors = {**TENSORS, "idle": np.ones(9, np.float32), "zero.bias": np.zeros(4, np.float32)}
    curvatures = {**CURVATURES, "idle": 0.0, "zero.bias": 1.0}
    found = exponents_by_curvature(tensors, curvatures, 0.5)
    assert step_of(found["idle"]) == 0.5
    assert found["zero.bias"] == 0
    wide = exponents_by_curvature(tensors, {**curvatures, "b.weight": 1e-9 * curvatures["b.weight"]}, 0.5)
    assert step_of(wide["b.weight"]) == pytest.approx(4 * spread("b.weight"), rel=0.05)


def test_curvatures_are_the_mean_squared_gradients_of_batches(checkpoint, corpus):
    model, card = load_checkpoint(checkpoint("gpt2", context=16))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    found = mean_curvatures(model, corpus, context=card.context, tokens=512, seed=0)
    assert list(found) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    # One batch: the square of Σ ∂nll, by the number of tokens, nats to bits.
    once = mean_curvatures(model, corpus, context=card.context, tokens=1, seed=7)
    inputs, targets = (torch.from_numpy(array) for array in BlockSampler(corpus, 16, 64, 7).batch(0))
    bias = model.transformer.ln_f.bias
    total = torch.nn.functional.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten(), reduction="sum")
    (gradient,) = torch.autograd.grad(total, [bias])
    expected = float(gradient.square().mean()) / (targets.numel() * math.log(2))
    assert once["transformer.ln_f.bias"] == pytest.approx(expected, rel=1e-3)


def test_sensitivities_need_a_training():
    def keys(**row):
        return [fault.key for fault in UniformQuantizer(kind="uniform", **row).faults()]

    assert keys(sensitivity_tokens=64) == ["sensitivity_tokens"]
    assert keys(sensitivity_tokens=64, straight_through={"steps": 2}) == keys() == []
