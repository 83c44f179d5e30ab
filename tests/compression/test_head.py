"""The head's pass, with one softmax for both directions, equals autograd through the vocabulary."""

import pytest
import torch
from tokenbounds.compression.calibration.head import loss_gradient, pass_head
from tokenbounds.models.blockwise import BlockwiseModel
from tokenbounds.models.checkpoint import open_checkpoint
from torch.nn import functional

TARGETS = {
    "some ignored": [3, -100, 47, 0, -100, 3],
    "none ignored": [3, 5, 47, 0, 1, 3],
    "all ignored": [-100] * 6,
}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request, checkpoint):
    return BlockwiseModel(*open_checkpoint(checkpoint(request.param)), torch.device("cpu"), torch.float32)


def by_autograd(model, hidden, targets):
    """Gradient and loss of cross-entropy, and the sum of p(1 − p)."""
    leaf = hidden.clone().requires_grad_()
    logits = model.logits(model.final_norm(leaf))
    loss = functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    loss.backward()
    p = torch.softmax(logits.detach(), -1)
    return leaf.grad, float(loss.detach()), (p * (1 - p)).sum(0)


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_the_head_equals_autograd(model, targets):
    hidden = 3 * torch.randn((6, 16), generator=torch.Generator().manual_seed(1))
    targets, variance = torch.tensor(targets), torch.ones(48)
    found = pass_head(model, hidden, targets, variance)
    gradient, loss_nats, added = by_autograd(model, hidden, targets)
    assert torch.allclose(found.gradient, gradient, rtol=1e-4, atol=1e-6)
    assert found.loss_nats == pytest.approx(loss_nats, rel=1e-6)
    assert torch.allclose(variance, 1 + added, rtol=1e-5)
    assert torch.equal(found.normed, model.final_norm(hidden))
    assert bool(found.gradient.any()) == any(target >= 0 for target in targets)


def test_a_token_that_is_all_but_impossible_has_a_finite_loss():
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 1000.0, 0.0]])
    gradient, loss_nats = loss_gradient(logits, torch.tensor([1, 2]), torch.zeros(3))
    assert loss_nats == pytest.approx(1200.0)
    assert torch.allclose(gradient, torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]]))


def test_half_precision_equals_autograd_in_half_precision(checkpoint):
    model = BlockwiseModel(*open_checkpoint(checkpoint("llama")), torch.device("cpu"), torch.bfloat16)
    hidden = torch.randn((6, 16), generator=torch.Generator().manual_seed(1)).bfloat16()
    targets = torch.tensor(TARGETS["some ignored"])
    found = pass_head(model, hidden, targets, torch.zeros(48))
    gradient, loss_nats, _ = by_autograd(model, hidden, targets)
    assert found.gradient.dtype == torch.bfloat16
    assert torch.allclose(found.gradient, gradient, rtol=2**-7, atol=1e-3)
    assert found.loss_nats == pytest.approx(loss_nats, rel=1e-6)
