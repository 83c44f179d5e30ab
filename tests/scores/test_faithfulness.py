"""The comparison of a decoded model with the original: what is stored for each token, against plain numpy."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from tokenbounds.errors import ScoreError
from tokenbounds.models.build import build_model, coded_parameters, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.scores.divergence import DIVERGENCE_ALPHA, most_divergence
from tokenbounds.scores.faithfulness import ComparingScorer, Original, compare_logits
from tokenbounds.scores.neural import NeuralScorer
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.windows import Group

V = 40


def plain(original, decoded):
    """KL(original ‖ smoothed decoded) in bits and whether first choices differ, in float64."""
    mixed = (1 - DIVERGENCE_ALPHA) * softmax(decoded, -1) + DIVERGENCE_ALPHA / decoded.shape[-1]
    divergence = (softmax(original, -1) * (log_softmax(original, -1) - np.log(mixed))).sum(-1) / np.log(2)
    return divergence, original.argmax(-1) != decoded.argmax(-1)


def logits(seed, scale, rows=50):
    return (scale * np.random.default_rng(seed).normal(size=(rows, V))).astype(np.float32)


@pytest.mark.parametrize("noise", [0.01, 1.0, 30.0])
def test_divergence_and_first_choices_are_those_of_plain_numpy(noise):
    original = logits(0, 3.0)
    decoded = original + logits(1, noise)
    found, changed = compare_logits(torch.from_numpy(original), torch.from_numpy(decoded))
    wanted, differ = plain(original.astype(float), decoded.astype(float))
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-5, rtol=2e-5)
    assert np.array_equal(changed.numpy(), differ)


def test_the_worst_is_finite_and_the_same_model_has_nearly_none():
    sure = np.full((1, V), -1e4, np.float32)
    sure[0, 3] = 0.0
    other = np.roll(sure, 1, axis=1)
    worst, changed = compare_logits(torch.from_numpy(sure), torch.from_numpy(other))
    assert float(worst[0]) == pytest.approx(most_divergence(V), rel=1e-6) and bool(changed[0])
    impossible = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert torch.isfinite(compare_logits(impossible, impossible.roll(1))[0]).all()
    same, changed = compare_logits(torch.from_numpy(logits(0, 3.0)), torch.from_numpy(logits(0, 3.0)))
    assert float(same.max()) < 1e-3 and not changed.any()


def network(seed, size=V, noise=0.0):
    model = build_model(ModelCard("gpt2", {"n_layer": 1, "n_embd": 16, "n_head": 2}, size, 0, 16))
    initialize(model, 0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in coded_parameters(model).values():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    return model


def group():
    """Blocks of different lengths, one of them with context, out of order by length."""
    length, context = np.array([3, 9, 5]), np.array([0, 0, 4])
    tokens = np.random.default_rng(0).integers(0, V, int((1 + length + context).sum()))
    return Group(np.arange(3), np.array([0, 0, 4]), length, context, tokens)


def test_predictions_are_compared_where_losses_are_scored():
    options, blocks = ScoringOptions(batch_tokens=12), group()
    scorer = ComparingScorer(network(1, noise=0.1), 0, options, Original(network(2), "f" * 64))
    nll_bits, rank, entropy, divergence, changed = scorer.score(blocks)
    for one, other in zip(NeuralScorer(network(1, noise=0.1), 0, options).score(blocks), (nll_bits, rank, entropy),
                          strict=True):  # fmt: skip
        assert np.array_equal(one, other)
    wanted = []
    for first, width, context in zip(blocks.first, blocks.width, blocks.context, strict=True):
        inputs = torch.from_numpy(blocks.tokens[first : first + width])[None]
        pair = [
            model(inputs).logits[0, context:].detach().double().numpy() for model in (network(2), network(1, noise=0.1))
        ]
        wanted.append(plain(*pair))
    np.testing.assert_allclose(divergence, np.concatenate([each for each, _ in wanted]), atol=1e-4)
    assert np.array_equal(changed, np.concatenate([each for _, each in wanted])) and 0 < changed.sum() < len(changed)
    assert divergence.mean() > 0.01


def test_another_vocabulary_is_refused():
    with pytest.raises(ScoreError, match="predicts 40 tokens, and what it is compared with 41"):
        ComparingScorer(network(1), 0, ScoringOptions(), Original(network(1, V + 1), "f" * 64))
