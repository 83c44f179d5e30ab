"""How much a model's loss depends on each of its values: which deserve fine steps, and which no bits at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel

from tokenbounds.messages.formats.grid import default_value, exponent_of
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.loss import IGNORED, summed_loss_nats
from tokenbounds.models.training.data import BlockSampler

if TYPE_CHECKING:
    from tokenbounds.corpus.reader import Corpus

_BATCH_WINDOWS = 4  # few: in many, the mean gradient would count for more than the spread that shows the curvature
_BITS_A_VALUE = 2.5  # what a value takes, about, before it is known how fine its tensor's steps are
_WIDEST_RATIO = 4.0  # of a step to the root mean square: beyond, hardly a value would be anything but its default


def loss_curvatures(
    model: PreTrainedModel, corpus: Corpus, *, context: int, tokens: int, seed: int
) -> dict[str, np.ndarray]:
    """The diagonal of the empirical Fisher information: near a minimum, the second derivatives of the mean loss.

    Parameters
    ----------
    model
        It keeps its values.
    corpus
        What windows are sampled from, with `seed`.
    context
        Tokens of a window.
    tokens
        How many tokens are run forwards and backwards, rounded up to batches of four windows.

    Returns
    -------
    dict of str to float32 array
        By tensor, in the model's order and the tensors' shapes; bits per token, per squared unit of the value.

    Notes
    -----
    The square of a batch's summed gradient stands for the sum of its tokens' squares, as if tokens were independent.
    """
    sampler = BlockSampler(corpus, context, _BATCH_WINDOWS * context, seed)
    parameters = coded_parameters(model)
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = 0
    for number in range(-(-tokens // (_BATCH_WINDOWS * context))):
        inputs, targets = (torch.from_numpy(array) for array in sampler.batch(number))
        loss = summed_loss_nats(model, inputs, targets)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total += gradient.square()
        count += int((targets != IGNORED).sum())
    return {name: (total / (max(count, 1) * math.log(2))).numpy() for name, total in sums.items()}


def drop_values(
    tensors: Mapping[str, np.ndarray], curvatures: Mapping[str, np.ndarray], bit_price: float
) -> dict[str, np.ndarray]:
    """Tensors with those values at their default whose difference from it adds less to the loss than its bits cost.

    To second order a value's difference d from its default is worth curvature · d² / 2 (optimal brain damage: LeCun,
    Denker and Solla, 1989).

    Parameters
    ----------
    tensors, curvatures : mappings of str to float32 arrays, of the same shapes
    bit_price : float
        What a bit of the message is worth, in bits of loss per token.
    """
    kept = {}
    for name, tensor in tensors.items():
        default = default_value(name, tensor.shape)
        worth = curvatures[name] * np.square(tensor - default) / 2
        kept[name] = np.where(worth < bit_price * _BITS_A_VALUE, default, tensor)
    return kept


def exponents_by_curvature(
    tensors: Mapping[str, np.ndarray], curvatures: Mapping[str, np.ndarray], step_ratio: float
) -> dict[str, int]:
    """Step exponents with which the rounding of every tensor's values adds about the same to the loss.

    An error of e steps adds curvature · (e · step)² / 2, and a bit more or less halves or doubles the step whatever the
    tensor, so that at a given number of bits the loss is least where all curvature · step² are equal (reverse
    water-filling). Steps are thus ∝ 1 / √(mean curvature).

    Parameters
    ----------
    tensors, curvatures : mappings of str to float32 arrays, of the same shapes
        A tensor of no curvature has the ratio itself.
    step_ratio : float
        Geometric mean, over all values, of the ratio of steps to their tensors' root mean square differences from the
        default. No tensor's is above 4.
    """
    spreads, logs, count = {}, {}, 0
    for name, tensor in tensors.items():
        offset = tensor.astype(np.float64) - default_value(name, tensor.shape)
        spreads[name] = float(np.sqrt(np.mean(offset**2))) if tensor.size else 0.0
        curvature = float(np.mean(curvatures[name], dtype=np.float64)) if tensor.size else 0.0
        if spreads[name] > 0 and curvature > 0:
            logs[name] = -0.5 * math.log(curvature) - math.log(spreads[name])
            count += tensor.size
    mean = sum(tensors[name].size * log for name, log in logs.items()) / max(count, 1)
    ratios = {name: min(step_ratio * math.exp(log - mean), _WIDEST_RATIO) for name, log in logs.items()}
    return {name: exponent_of(ratios.get(name, step_ratio) * spread) for name, spread in spreads.items()}
