"""Tuning after rounding: steps, norms and biases trained so that a quantized model predicts what the original does.

The loss is the KL divergence of the quantized model's predictions from the original's, on the windows of the
calibration. Codes stay as they are, and steps and values stay on the message's grids: the message is no larger, but for
the steps' own few bits. Every sixteenth window is kept for judging: what does not bring the predictions closer there is
not kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from tokenbounds.compression.calibration.layers import matrices_of
from tokenbounds.compression.divergence import chunks, compare_predictions, final_states, log_predictions
from tokenbounds.compression.posttraining.tuned_layers import TunedModel
from tokenbounds.compression.subject import Record
from tokenbounds.compression.transformer import Transformer
from tokenbounds.config.quantizers import Tuning
from tokenbounds.errors import MessageError
from tokenbounds.messages.formats.scaled import ScaledFormat
from tokenbounds.models.build import build_model
from tokenbounds.models.loss import IGNORED
from tokenbounds.progress import Progress

LOGGER = logging.getLogger(__name__)
_JUDGED = 16  # one window in as many is not trained on
_VECTOR_SHARE = 0.5  # learning rate of norms and biases, as a share of that of steps


def tune(
    scaled: ScaledFormat, subject: Transformer, windows: tuple[np.ndarray, np.ndarray], spec: Tuning
) -> tuple[ScaledFormat, Record]:
    """Tune a quantized model's steps, norms and biases.

    Parameters
    ----------
    scaled : ScaledFormat
    subject : Transformer
        The original.
    windows : int64 arrays [windows, context]
        Tokens, and what follows each, -100 where nothing is predicted.
    spec : Tuning

    Returns
    -------
    scaled : ScaledFormat
        With the codes of matrices unchanged.
    record : dict
        Steps of training, and for windows that it did not see, before and after, the KL divergence in bits per token
        and the share of positions at which the likeliest token is another.

    Raises
    ------
    MessageError
        If training diverged.
    """
    dtype = getattr(torch, spec.dtype)
    student = build_model(subject.dense_card("tuning"))
    tuned = TunedModel(student, scaled, matrices_of(subject.model), dtype)
    pupils = _Pupil(subject.model, tuned.model, dtype)
    inputs, targets = (torch.from_numpy(each) for each in windows)
    judged = torch.arange(len(inputs)) % _JUDGED == _JUDGED - 1 if len(inputs) >= _JUDGED else None
    trained = ~judged if judged is not None else torch.ones(len(inputs), dtype=torch.bool)
    shown = judged if judged is not None else trained  # too few windows to keep any apart
    most = len(inputs) if spec.tokens is None else max(spec.tokens // inputs.shape[1], 1)  # windows to train on
    before = pupils.measure(inputs[shown], targets[shown])
    steps = _train(pupils, tuned, inputs[trained][:most], targets[trained][:most], spec)
    after = pupils.measure(inputs[shown], targets[shown])
    kept = after["kl_bits"] < before["kl_bits"]
    LOGGER.info("tuned: KL %.4f to %.4f bits per token", before["kl_bits"], after["kl_bits"])
    record = {"steps": steps, "before": before, "after": after, "judged_tokens": int(shown.sum()) * inputs.shape[1]}
    return (tuned.settle() if kept else scaled), {**record, "kept": kept}


def _train(pupils: _Pupil, tuned: TunedModel, inputs: torch.Tensor, targets: torch.Tensor, spec: Tuning) -> int:
    """Passes over the windows in seeded orders, with a short warm-up and a cosine to zero; the number of steps."""
    groups: list[dict[str, Any]] = [
        {"params": tuned.steps(), "base": spec.learning_rate},
        {"params": tuned.vectors(), "base": _VECTOR_SHARE * spec.learning_rate},
    ]
    optimizer = torch.optim.Adam(groups, lr=spec.learning_rate, betas=(0.9, 0.95))
    batches = list(_batches(len(inputs), max(spec.batch_tokens // inputs.shape[1], 1), spec))
    progress = Progress(LOGGER, len(batches), "steps", "tuned:")
    for step, chosen in enumerate(batches):
        done = step / len(batches)
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * min(1.0, (done + 1e-2) / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
        optimizer.zero_grad(set_to_none=True)
        kl_bits = pupils.learn(inputs[chosen], targets[chosen])
        if not math.isfinite(kl_bits):
            raise MessageError(f"tuning diverged at step {step}. Lower tuning.learning_rate.")
        optimizer.step()
        progress.add(1, f"KL {kl_bits:.4f} bits per token")
    return len(batches)


def _batches(windows: int, size: int, spec: Tuning) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(spec.seed)
    for _ in range(spec.passes):
        yield from torch.randperm(windows, generator=generator).split(size)


@dataclass
class _Pupil:
    """The original, which teaches, and the quantized model, which learns."""

    teacher: PreTrainedModel
    student: PreTrainedModel
    dtype: torch.dtype

    def learn(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        """Gradients of the mean KL divergence of windows [windows, time]; returns it, in bits."""
        kept = targets.flatten() != IGNORED
        hidden = final_states(self.student, inputs)[kept]
        leaf = hidden.detach().requires_grad_()  # [tokens, width]
        with torch.no_grad():
            taught = final_states(self.teacher, inputs, self.dtype)[kept]
        total = 0.0
        # Logits are there for a few tokens at a time, and their gradients end at the hidden states.
        for here in chunks(len(leaf), self.teacher.config.vocab_size):
            with torch.no_grad():
                logarithms = log_predictions(self.teacher, taught[here], self.dtype)
            said = log_predictions(self.student, leaf[here])
            kl_nats = (logarithms.exp() * (logarithms - said)).sum()
            (kl_nats / len(leaf)).backward()
            total += float(kl_nats.detach())
        hidden.backward(leaf.grad)
        return total / max(len(leaf), 1) / math.log(2)

    def measure(self, inputs: torch.Tensor, targets: torch.Tensor) -> Record:
        """How far the predictions are apart."""
        return compare_predictions(self.teacher, self.student, inputs, targets, self.dtype)
