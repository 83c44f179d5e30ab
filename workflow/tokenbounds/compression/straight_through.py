"""Straight-through training of quantized weights, for the loss alone or for loss + rate_weight × bits."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.progress import track
from torch import nn
from transformers import PreTrainedModel

from tokenbounds.compression.subject import Record
from tokenbounds.compression.trainable import TrainableTensor
from tokenbounds.compression.transformer import Transformer
from tokenbounds.config import StraightThrough
from tokenbounds.errors import MessageError
from tokenbounds.limits import check_memory
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.models.loss import IGNORED, summed_loss_nats
from tokenbounds.models.training.data import BlockSampler
from tokenbounds.progress import Progress

if TYPE_CHECKING:
    from tokenbounds.corpus.reader import Corpus

LOGGER = logging.getLogger(__name__)

# Memory for each trained parameter, bytes: its value and that of the model, gradient, two moments of the optimizer, and
# what the backward pass keeps of its rounding and its code length. Measured at 60 to 66 with all else.
_TRAINING_BYTES = 56
_REFIT_STEPS = 10
_SCALE_RATE = 4.0  # log-steps learn this much faster than weights, in octaves against weight units
_CLIP_NORM = 1.0
_CURVE_POINTS = 200


def check_training(shapes: Mapping[str, Shape], corpus: Corpus | None) -> Corpus:
    """Refuse, before anything large is read, to train tensors of these shapes without a corpus or the memory.

    Raises
    ------
    MessageError
        If there is no corpus, or values, gradients and moments certainly take more than this process may use.
    """
    if corpus is None:
        raise MessageError("straight-through training needs a corpus. Pass it, or set straight_through.steps to 0.")
    count = sum(map(math.prod, shapes.values()))
    check_memory(_TRAINING_BYTES * count, f"straight-through training of {count:,} parameters", MessageError)
    return corpus


def train(
    subject: Transformer, tensors: Mapping[str, TrainableTensor], spec: StraightThrough, corpus: Corpus
) -> Record:
    """Train a model's weights through their quantization; `tensors` are changed in place.

    Minimises mean nll_bits + rate_weight × (estimated bits of the message) / (tokens of the corpus), so `rate_weight`
    is what a bit of message per corpus token is worth in bits of loss per token.

    Parameters
    ----------
    subject : Transformer
        The model itself stays as it is.
    tensors : mapping of str to TrainableTensor
        Its coded parameters in the model's order, each with the steps or the codebook to start from.
    spec : StraightThrough
    corpus : Corpus
        What batches are sampled from, with `spec.seed`.

    Returns
    -------
    dict
        `steps`, first and last loss in bits, estimated bits before and after, and the loss curve, thinned.

    Raises
    ------
    MessageError
        If the loss is no longer finite.
    """
    objective = _Objective(subject.model, tensors, spec, rate_per_bit=spec.rate_weight / max(corpus.tokens, 1))
    parameters = [parameter for tensor in tensors.values() for parameter in tensor.parameters()]
    optimizer = _optimizer(parameters, [scale for tensor in tensors.values() for scale in tensor.scales()], spec)
    sampler = BlockSampler(corpus, subject.card.context, spec.batch_tokens, spec.seed)
    curve: list[dict[str, float]] = []
    progress = Progress(LOGGER, spec.steps, "steps", "trained through codes:")
    for step in track(range(spec.steps), "training through codes", disable=not sys.stderr.isatty()):
        # A short warm-up while Adam's moments form, then a cosine to zero.
        done = step / spec.steps  # share of the way
        factor = min(1.0, (done + 1e-3) / 0.02) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor
        if step % _REFIT_STEPS == 0:
            for tensor in tensors.values():
                tensor.refit()
        optimizer.zero_grad(set_to_none=True)
        loss_bits, rate_bits = objective.backward(*sampler.batch(step))
        if not math.isfinite(loss_bits):
            raise MessageError(f"training diverged at step {step}. Lower straight_through.learning_rate.")
        torch.nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
        optimizer.step()
        for tensor in tensors.values():
            tensor.settle()
        curve.append({"step": step, "loss_bits": loss_bits, "rate_bits": rate_bits})
        progress.add(1, f"{loss_bits:.3f} bits per token")
    return _history(curve, spec)


class _Objective:
    """Loss and rate of a batch, and their gradients on everything trainable."""

    def __init__(
        self,
        model: PreTrainedModel,
        tensors: Mapping[str, TrainableTensor],
        spec: StraightThrough,
        *,
        rate_per_bit: float,
    ) -> None:
        self._model = _LossWithBackward(model, spec.dtype)
        self._tensors = tensors
        self._rate_per_bit = rate_per_bit

    def backward(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        """Accumulate gradients; return mean nll in bits and the estimated bits of all codes."""
        values, rates = {}, []
        # Quantized values take the place of the parameters, whose gradients pass through the rounding.
        for name, tensor in self._tensors.items():
            values[f"model.{name}"], bits = tensor.quantized()
            rates.append(bits)
        rate_bits = torch.stack(rates).sum()
        penalty = self._rate_per_bit * rate_bits
        batch = (torch.from_numpy(inputs), torch.from_numpy(targets), penalty)
        loss_bits = torch.func.functional_call(self._model, values, batch)
        return loss_bits, float(rate_bits.detach())


class _LossWithBackward(nn.Module):
    """Runs backward inside forward, while the quantized values still replace the parameters.

    The loss recomputes parts of the model on the way back and must find the same values there.
    """

    def __init__(self, model: PreTrainedModel, dtype: str) -> None:
        super().__init__()
        self.model = model
        self._dtype = dtype

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor, penalty: torch.Tensor) -> float:
        """Mean nll in bits of the targets that count."""
        count = max(int((targets != IGNORED).sum()), 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._dtype == "bfloat16"):
            loss = summed_loss_nats(self.model, inputs, targets) / (count * math.log(2))
        (loss + penalty).backward()
        return float(loss.detach())


def _optimizer(
    parameters: Sequence[nn.Parameter], scales: Sequence[nn.Parameter], spec: StraightThrough
) -> torch.optim.Optimizer:
    chosen = {id(scale) for scale in scales}
    groups: list[dict[str, Any]] = [
        {"params": [each for each in parameters if id(each) not in chosen], "base": spec.learning_rate},
        {"params": list(scales), "base": _SCALE_RATE * spec.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)


def _history(curve: list[dict[str, float]], spec: StraightThrough) -> Record:
    stride = max(1, len(curve) // _CURVE_POINTS)
    tail = [point["loss_bits"] for point in curve[-20:]]
    LOGGER.info("trained %d steps: %.4f to %.4f bits", spec.steps, curve[0]["loss_bits"], float(np.mean(tail)))
    return {
        "steps": spec.steps,
        "first_loss_bits": curve[0]["loss_bits"],
        "last_loss_bits": float(np.mean(tail)),
        "first_rate_bits": curve[0]["rate_bits"],
        "last_rate_bits": curve[-1]["rate_bits"],
        "curve": curve[::stride],
    }
