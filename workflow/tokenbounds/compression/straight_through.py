"""Straight-through fine-tuning of quantized weights, for the loss alone or for loss + rate_weight × bits."""

from __future__ import annotations

import logging
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from tokenbounds.compression.trainable import TrainableQuantization, trainable_quantization
from tokenbounds.config import StraightThrough
from tokenbounds.errors import MessageError
from tokenbounds.messages.formats import Quantized
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.loss import IGNORED, summed_loss_nats
from tokenbounds.models.training.data import BlockSampler

if TYPE_CHECKING:
    from tokenbounds.corpus.reader import Corpus

LOGGER = logging.getLogger(__name__)

_REFIT_STEPS = 10
_SCALE_RATE = 4.0  # log-steps learn this much faster than weights, in octaves against weight units
_CLIP_NORM = 1.0
_CURVE_POINTS = 200


def finetune(
    model: PreTrainedModel, quantized: Quantized, corpus: Corpus, *, context: int, spec: StraightThrough
) -> tuple[Quantized, dict[str, Any]]:
    """Train a model's weights through their quantization, then round for good.

    Minimises mean nll_bits + rate_weight × (estimated bits of the message) / (tokens of the corpus), so that
    `rate_weight` is what a bit of message per corpus token is worth in bits of loss per token.

    Parameters
    ----------
    model : transformers model
        Its coded parameters are the starting point; the model itself stays as it is.
    quantized : Quantized
        Gives steps or codebooks to start from.
    corpus : Corpus
        What batches are sampled from, with `spec.seed`.
    context : int
        Tokens a row of a batch.
    spec : Finetuning

    Returns
    -------
    quantized : Quantized
    history : dict
        `steps`, first and last loss in bits, estimated bits before and after, and the loss curve, thinned.

    Raises
    ------
    MessageError
        If the loss is no longer finite.
    """
    weights = {name: value.detach().float().numpy() for name, value in coded_parameters(model).items()}
    trainable = trainable_quantization(weights, quantized)
    objective = _Objective(model, trainable, spec, rate_per_bit=spec.rate_weight / max(corpus.tokens, 1))
    optimizer = _optimizer(trainable, spec)
    sampler = BlockSampler(corpus, context, spec.batch_tokens, spec.seed)
    curve: list[dict[str, float]] = []
    for step in _progress(spec.steps):
        _set_rate(optimizer, step / spec.steps)
        if step % _REFIT_STEPS == 0:
            trainable.refit()
        optimizer.zero_grad(set_to_none=True)
        loss_bits, rate_bits = objective.backward(*sampler.batch(step))
        _check_finite(loss_bits, step)
        torch.nn.utils.clip_grad_norm_(trainable.parameters(), _CLIP_NORM)
        optimizer.step()
        trainable.settle()
        curve.append({"step": step, "loss_bits": loss_bits, "rate_bits": rate_bits})
    return trainable.freeze(), _history(curve, spec)


class _Objective:
    """Loss and rate of a batch, and their gradients on everything trainable."""

    def __init__(
        self, model: PreTrainedModel, trainable: TrainableQuantization, spec: StraightThrough, *, rate_per_bit: float
    ) -> None:
        self._model = _LossWithBackward(model, spec.dtype)
        self._trainable = trainable
        self._rate_per_bit = rate_per_bit

    def backward(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        """Accumulate gradients; return mean nll in bits and the estimated bits of all codes."""
        values, rates = {}, []
        for name, tensor in self._trainable.items():
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


def _check_finite(loss_bits: float, step: int) -> None:
    if not math.isfinite(loss_bits):
        raise MessageError(f"fine-tuning diverged at step {step}. Lower straight_through.learning_rate.")


def _optimizer(trainable: TrainableQuantization, spec: StraightThrough) -> torch.optim.Optimizer:
    scales = trainable.scales()
    chosen = {id(scale) for scale in scales}
    weights = [parameter for parameter in trainable.parameters() if id(parameter) not in chosen]
    groups = [
        {"params": weights, "base": spec.learning_rate},
        {"params": scales, "base": _SCALE_RATE * spec.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)


def _set_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Short warm-up while Adam's moments form, then a cosine to zero."""
    factor = min(1.0, (progress + 1e-3) / 0.02) * 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor


def _progress(steps: int) -> Any:
    from rich.progress import track

    return track(range(steps), "fine-tuning", disable=not sys.stderr.isatty())


def _history(curve: list[dict[str, float]], spec: StraightThrough) -> dict[str, Any]:
    stride = max(1, len(curve) // _CURVE_POINTS)
    tail = [point["loss_bits"] for point in curve[-20:]]
    LOGGER.info("fine-tuned %d steps: %.4f to %.4f bits", spec.steps, curve[0]["loss_bits"], float(np.mean(tail)))
    return {
        "steps": spec.steps,
        "first_loss_bits": curve[0]["loss_bits"],
        "last_loss_bits": float(np.mean(tail)),
        "first_rate_bits": curve[0]["rate_bits"],
        "last_rate_bits": curve[-1]["rate_bits"],
        "curve": curve[::stride],
    }
