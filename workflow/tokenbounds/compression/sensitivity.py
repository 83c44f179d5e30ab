"""How much a model's loss depends on the values of each tensor, and the steps that follow from it."""

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
_WIDEST_RATIO = 4.0  # of a step to the root mean square: beyond, hardly a value would be anything but its default


def mean_curvatures(
    model: PreTrainedModel, corpus: Corpus, *, context: int, tokens: int, seed: int
) -> dict[str, float]:
    """Second derivatives of the mean loss near a minimum, averaged over each tensor: the empirical Fisher information.

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
    dict of str to float
        By tensor, in the model's order; bits per token, per squared unit of a value.

    Notes
    -----
    The square of a batch's summed gradient stands for the sum of its tokens' squares, as if tokens were independent.
    """
    sampler = BlockSampler(corpus, context, _BATCH_WINDOWS * context, seed)
    parameters = coded_parameters(model)
    sums = dict.fromkeys(parameters, 0.0)
    count = 0
    for number in range(-(-tokens // (_BATCH_WINDOWS * context))):
        inputs, targets = (torch.from_numpy(array) for array in sampler.batch(number))
        loss = summed_loss_nats(model, inputs, targets)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None and gradient.numel():
                sums[name] += float(gradient.square().mean())
        count += int((targets != IGNORED).sum())
    return {name: total / (max(count, 1) * math.log(2)) for name, total in sums.items()}


def exponents_by_curvature(
    tensors: Mapping[str, np.ndarray], curvatures: Mapping[str, float], step_ratio: float
) -> dict[str, int]:
    """Step exponents with which the rounding of every tensor's values adds about the same to the loss.

    An error of e steps adds curvature · (e · step)² / 2, and a bit more or less halves or doubles the step whatever the
    tensor, so that at a given number of bits the loss is least where all curvature · step² are equal (reverse
    water-filling). Steps are thus ∝ 1 / √curvature.

    Parameters
    ----------
    tensors : mapping of str to float32 array, any shapes
        Each is asked for once.
    curvatures : mapping of str to float
        Averages over each tensor's values; a tensor of none has the ratio itself.
    step_ratio : float
        Geometric mean, over all values, of the ratio of steps to their tensors' root mean square differences from the
        default. No tensor's is above 4.
    """
    spreads, sizes, logs = {}, {}, {}
    for name, tensor in tensors.items():
        offset = tensor.astype(np.float64) - default_value(name, tensor.shape)
        spreads[name] = float(np.sqrt(np.mean(offset**2))) if tensor.size else 0.0
        if spreads[name] > 0 and curvatures[name] > 0:
            logs[name] = -0.5 * math.log(curvatures[name]) - math.log(spreads[name])
            sizes[name] = tensor.size
    mean = sum(sizes[name] * log for name, log in logs.items()) / max(sum(sizes.values()), 1)
    ratios = {name: min(step_ratio * math.exp(log - mean), _WIDEST_RATIO) for name, log in logs.items()}
    return {name: exponent_of(ratios.get(name, step_ratio) * spread) for name, spread in spreads.items()}
