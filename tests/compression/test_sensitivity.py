"""Steps and dropped values by the curvature of the loss: equal harm everywhere, and no bits for what does nothing."""

import math

import numpy as np
import pytest
import torch
from tokenbounds.compression.sensitivity import drop_values, exponents_by_curvature, loss_curvatures
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
MEANS = {"a.weight": 0.02, "b.weight": 60.0, "norm.weight": 0.3}
CURVATURES = {
    name: (MEANS[name] * RNG.exponential(size=tensor.shape)).astype(np.float32) for name, tensor in TENSORS.items()
}


def harm(steps):
    """What rounding adds to the loss to second order, with errors uniform in a step."""
    return sum(CURVATURES[name].sum() * steps[name] ** 2 / 24 for name in TENSORS)


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
    curvatures = {**CURVATURES, "idle": np.zeros(9, np.float32), "zero.bias": np.ones(4, np.float32)}
    found = exponents_by_curvature(tensors, curvatures, 0.5)
    assert step_of(found["idle"]) == 0.5
    assert found["zero.bias"] == 0
    wide = exponents_by_curvature(tensors, {**curvatures, "b.weight": 1e-9 * curvatures["b.weight"]}, 0.5)
    assert step_of(wide["b.weight"]) == pytest.approx(4 * spread("b.weight"), rel=0.05)


def test_values_worth_less_than_their_bits_go_to_their_default():
    price = 1e-3
    kept = drop_values(TENSORS, CURVATURES, price)
    gone = {name: kept[name] != TENSORS[name] for name in TENSORS}
    assert all(0 < mask.mean() < 1 for mask in gone.values())
    assert np.all(kept["norm.weight"][gone["norm.weight"]] == 1)
    for name, mask in gone.items():
        default = 1 if name == "norm.weight" else 0
        worth = CURVATURES[name] * (TENSORS[name] - default) ** 2 / 2
        assert worth[mask].max() < 2.5 * price <= worth[~mask].min()
    assert all(np.array_equal(kept, TENSORS[name]) for name, kept in drop_values(TENSORS, CURVATURES, 0.0).items())


def test_curvatures_are_zero_for_what_the_loss_does_not_depend_on(checkpoint, corpus):
    model, card = load_checkpoint(checkpoint("gpt2", context=16))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    found = loss_curvatures(model, corpus, context=card.context, tokens=512, seed=0)
    assert list(found) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    # Softmax does not see what is added to all of its inputs: the keys' bias does nothing, other biases do.
    name = next(name for name in found if name.endswith("attn.c_attn.bias"))
    queries, keys, values = np.split(found[name], 3)
    assert keys.max() < 1e-9 * values.mean()
    assert queries.mean() > 1e3 * keys.max()
    # One batch: the square of Σ ∂nll, by the number of tokens, nats to bits.
    once = loss_curvatures(model, corpus, context=card.context, tokens=1, seed=7)
    inputs, targets = (torch.from_numpy(array) for array in BlockSampler(corpus, 16, 64, 7).batch(0))
    bias = model.transformer.ln_f.bias
    total = torch.nn.functional.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten(), reduction="sum")
    (gradient,) = torch.autograd.grad(total, [bias])
    expected = gradient.square() / (targets.numel() * math.log(2))
    assert np.allclose(once["transformer.ln_f.bias"], expected, rtol=1e-3)


def test_sensitivities_need_a_training_and_dropping_needs_sensitivities():
    def paths(**keys):
        return [fault.key for fault in UniformQuantizer(kind="uniform", **keys).faults()]

    training = {"straight_through": {"steps": 2}}
    assert paths(sensitivity_tokens=64) == ["sensitivity_tokens"]
    assert paths(drop_values=True, **training) == ["drop_values"]
    assert paths(sensitivity_tokens=64, drop_values=True, **training) == paths() == []
