"""The loss after the last block, and its gradient, from one softmax over the vocabulary."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tokenbounds.models.blockwise import BlockwiseModel
from tokenbounds.models.loss import IGNORED


class HeadPass(NamedTuple):
    """What `pass_head` finds.

    Attributes
    ----------
    normed : tensor [rows, hidden]
        The head's inputs.
    gradient : tensor [rows, hidden]
        Of the summed loss in nats, at the hidden states.
    loss_nats : float
        Summed over targets that are not -100.
    """

    normed: torch.Tensor
    gradient: torch.Tensor
    loss_nats: float


def pass_head(model: BlockwiseModel, hidden: torch.Tensor, targets: torch.Tensor, variance: torch.Tensor) -> HeadPass:
    """Apply final norm and head, forwards and backwards, to hidden states after the last block.

    Parameters
    ----------
    model : BlockwiseModel
    hidden : tensor [rows, hidden]
    targets : int64 tensor [rows]
    variance : float32 tensor [vocabulary]
        p(1 − p) of every token, summed over rows, is added to it.
    """
    leaf = hidden.detach().requires_grad_()  # [rows, hidden]
    normed = model.final_norm(leaf)  # [rows, hidden]
    # The softmax's gradient has a closed form: autograd, which would keep the logits, is needed for the norm only.
    with torch.no_grad():
        at_logits, loss_nats = loss_gradient(model.logits(normed), targets, variance)  # [rows, vocabulary]
        at_normed = at_logits.to(model.dtype) @ model.model.lm_head.weight  # [rows, hidden]
    normed.backward(at_normed)
    assert leaf.grad is not None
    return HeadPass(normed.detach(), leaf.grad, loss_nats)


def loss_gradient(logits: torch.Tensor, targets: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The gradient of the summed cross-entropy at the logits, float32 [rows, vocabulary], and the sum in nats.

    Rows whose target is -100 have no loss. `logits` is overwritten; the other parameters are as in `pass_head`.
    """
    kept, chosen = targets != IGNORED, targets.clamp(min=0)[:, None]  # [rows], [rows, 1]
    logarithms = torch.log_softmax(logits, dim=-1)  # [rows, vocabulary]
    loss_nats = -float(logarithms.gather(1, chosen)[kept].sum())
    probabilities = logarithms.exp_()
    # Two arrays of the logits' size and no more: the squares go where the logits were.
    variance += probabilities.sum(0)
    variance -= torch.square(probabilities, out=logits).sum(0)
    # The gradient is p − 1 at the target and p elsewhere; zero where there is no target.
    probabilities.scatter_add_(1, chosen, probabilities.new_full(chosen.shape, -1.0))
    return probabilities.mul_(kept[:, None]), loss_nats
