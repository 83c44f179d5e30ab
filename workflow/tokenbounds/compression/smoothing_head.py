"""Training of a smoothing head on the bound itself, then rounding it to few bits.

It minimises the bound that a certificate would state if the whole corpus were like a part of it that is drawn by seed:
every optimizer step uses all tokens of the part, and prices the message with the head in it. The step of the rounding
and the smallest weight are chosen by the same measure.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from tokenbounds.compression.subject import Record
from tokenbounds.config import SmoothingHeadSpec
from tokenbounds.errors import MessageError
from tokenbounds.messages.formats.grid import exponent_of, step_of
from tokenbounds.messages.smoothing_head import SmoothingHead, grid_positions
from tokenbounds.models.loss import IGNORED
from tokenbounds.models.training.data import BlockSampler

if TYPE_CHECKING:
    from tokenbounds.corpus.reader import Corpus

LOGGER = logging.getLogger(__name__)

_BATCH_TOKENS = 4096
_CHUNK_LOGITS = 1 << 24
_GRIDS_NATS = 12.0  # about what delta and the certificate's grids cost; next to a message it hardly matters
_BITS_A_VALUE = 3.0  # of a head before it is rounded
_FRACTIONS = np.geomspace(1e-3, 0.995, 24)  # of 1 / ceiling, for lambda
_STEP_RATIOS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)  # steps of the rounding, in root mean squares of the weights


@dataclass(frozen=True)
class _Part:
    """A part of the corpus as the head sees it.

    Attributes
    ----------
    states
        Last hidden states float32 [n, hidden], each feature shifted and scaled to mean 0 and deviation 1.
    shift, scale
        What was subtracted and divided by, [hidden].
    nll_bits
        Raw losses [n].
    vocabulary_size
        V.
    """

    states: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor
    nll_bits: torch.Tensor
    vocabulary_size: int

    def losses(self, alphas: torch.Tensor) -> torch.Tensor:
        """Smoothed losses, bits [n]."""
        return -torch.log2((1 - alphas) * torch.exp2(-self.nll_bits) + alphas / self.vocabulary_size)

    def unscaled(self, values: torch.Tensor) -> torch.Tensor:
        """Values [hidden + 1] for the model's own states, from those for `states`."""
        weights = values[:-1] / self.scale
        return torch.cat([weights, values[-1:] - weights @ self.shift])

    def alphas(self, values: torch.Tensor, grid_size: int) -> torch.Tensor:
        """Weights [n] by a head for the model's own states, values [hidden + 1]."""
        scaled = torch.cat([values[:-1] * self.scale, values[-1:] + values[:-1] @ self.shift])
        return torch.exp2(grid_positions(self.states, scaled, grid_size) - grid_size)


@dataclass(frozen=True)
class _Objective:
    """A bound on bits per token of smoothed losses, from bits of the message and tokens of the corpus."""

    bound: Literal["azuma", "betting"]
    message_bits: float
    tokens: int
    vocabulary_size: int

    def share(self, head_bits: float) -> float:
        """L/m, nats."""
        return ((self.message_bits + head_bits) * math.log(2) + _GRIDS_NATS) / self.tokens

    def ceiling(self, least: int) -> float:
        """Largest smoothed loss under weights of at least 2^-least, bits."""
        return math.log2(self.vocabulary_size) + least

    def azuma(self, losses: torch.Tensor, alphas: torch.Tensor, head_bits: float) -> torch.Tensor:
        """The bound for ranges that differ from token to token, with the best lambda."""
        ranges = torch.log2(1 + (1 - alphas) * self.vocabulary_size / alphas)
        return losses.mean() + ranges.square().mean().sqrt() * math.sqrt(self.share(head_bits) / 2)

    def betting(
        self, losses: torch.Tensor, least: int, fraction: torch.Tensor | float, head_bits: float
    ) -> torch.Tensor:
        """The bound for lambda = fraction / ceiling."""
        lambda_ = fraction / self.ceiling(least)
        return -torch.expm1(torch.log1p(-lambda_ * losses).mean() - self.share(head_bits)) / lambda_

    def best(self, losses: torch.Tensor, alphas: torch.Tensor, least: int, head_bits: float) -> float:
        """The bound with the best lambda."""
        losses = losses.double()
        if self.bound == "azuma":
            return float(self.azuma(losses, alphas.double(), head_bits))
        return min(float(self.betting(losses, least, float(each), head_bits)) for each in _FRACTIONS)


def train_smoothing_head(
    model: PreTrainedModel, corpus: Corpus, *, context: int, message_bits: int, spec: SmoothingHeadSpec
) -> tuple[SmoothingHead, Record]:
    """Train a smoothing head for a model as its message decodes.

    Parameters
    ----------
    model
        The decoded model, float32.
    corpus
        What tokens are sampled from, with `spec.seed`; its size is the m of the bound.
    context
        Tokens of a window.
    message_bits
        Size of the message without the head, bits.
    spec
        Which bound, and the numbers of tokens, steps and weights.

    Returns
    -------
    head
    report
        The bound expected with the head and with the best single power of two instead, bits per token, and the head's
        size in bits.

    Raises
    ------
    MessageError
        If the losses or the training are not finite.
    """
    part = _collect(model, corpus, context, spec)
    objective = _Objective(spec.bound, message_bits, corpus.tokens, part.vocabulary_size)
    least, single = _best_single(part, objective, spec.grid_size)
    guess = _BITS_A_VALUE * (part.states.shape[1] + 1)
    values = _train(part, objective, spec, least=spec.grid_size, start=spec.grid_size - least, head_bits=guess)
    least = _trim(part, objective, values, spec.grid_size, guess)
    if least < spec.grid_size:
        # The smaller ceiling allows larger lambdas, for which the head was not trained.
        start = float(part.alphas(values, spec.grid_size).log2().mean()) + least
        values = _train(part, objective, spec, least=least, start=min(max(start, 0.0), least - 1.0), head_bits=guess)
    head, bound = min(_rounded(part, objective, values, least), key=lambda pair: pair[1])
    bits = 8 * len(head.to_part().data)
    LOGGER.info("smoothing head of %d bits: %s bound %.4f, with one weight %.4f", bits, spec.bound, bound, single)
    report = {"bound": spec.bound, "tokens": len(part.nll_bits), "alphas": list(head.alphas), "size_bits": bits}
    return head, {**report, "expected_bits": bound, "expected_bits_with_one_alpha": single}


@torch.no_grad()
def _collect(model: PreTrainedModel, corpus: Corpus, context: int, spec: SmoothingHeadSpec) -> _Part:
    """Run the model on windows drawn from the corpus."""
    sampler = BlockSampler(corpus, context, min(_BATCH_TOKENS, spec.tokens), spec.seed)
    states, nll_bits, count, number = [], [], 0, 0
    while count < spec.tokens:
        inputs, targets = (torch.from_numpy(array) for array in sampler.batch(number))
        hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)  # [B · T, H]
        counted = targets.flatten() != IGNORED
        states.append(hidden[counted].float())
        nll_bits.append(_losses(model, hidden[counted], targets.flatten()[counted]))
        count, number = count + int(counted.sum()), number + 1
    whole, losses = torch.cat(states), torch.cat(nll_bits)
    if not bool(torch.isfinite(losses).all() and torch.isfinite(whole).all()):
        raise MessageError("the model's losses are not finite: there is nothing to train a smoothing head on.")
    # Standardised states [n, H], so that one learning rate suits all of a head's values.
    shift, scale = whole.mean(0), whole.std(0, correction=0).clamp_min(1e-6)
    return _Part(whole.sub_(shift).div_(scale), shift, scale, losses, int(model.config.vocab_size))


def _losses(model: PreTrainedModel, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Raw losses of targets [n] in bits, a chunk of logits at a time."""
    rows = max(1, _CHUNK_LOGITS // int(model.config.vocab_size))
    parts = zip(states.split(rows), targets.split(rows), strict=True)
    nats = [functional.cross_entropy(model.lm_head(some).float(), wanted, reduction="none") for some, wanted in parts]
    return torch.cat(nats) / math.log(2)


def _best_single(part: _Part, objective: _Objective, grid_size: int) -> tuple[int, float]:
    """The best single weight 2^-least for all tokens, and its bound."""
    bounds = {}
    for least in range(1, grid_size + 1):
        alphas = torch.full_like(part.nll_bits, 2.0**-least)
        bounds[least] = objective.best(part.losses(alphas), alphas, least, 0.0)
    least = min(bounds, key=lambda each: bounds[each])
    return least, bounds[least]


def _train(
    part: _Part, objective: _Objective, spec: SmoothingHeadSpec, *, least: int, start: float, head_bits: float
) -> torch.Tensor:
    """Values [hidden + 1] of a head with weights 2^-least to 1/2, for the model's own states.

    Weights are powers of two with any exponent here; they are rounded to whole exponents afterwards.
    """
    weights = torch.zeros(part.states.shape[1], requires_grad=True)
    bias = torch.tensor([float(start)], requires_grad=True)
    logit = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([weights, bias, logit], lr=spec.learning_rate)
    for step in range(spec.steps):
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * (1 - step / spec.steps)
        alphas = torch.exp2((part.states @ weights + bias).clamp(0, least - 1) - least)  # [n]
        losses = part.losses(alphas)  # bits, [n]
        if spec.bound == "azuma":
            value = objective.azuma(losses, alphas, head_bits)
        else:
            value = objective.betting(losses, least, _FRACTIONS[-1] * torch.sigmoid(logit), head_bits).sum()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    values = part.unscaled(torch.cat([weights, bias]).detach())
    if not bool(torch.isfinite(values).all()):
        raise MessageError("training of the smoothing head diverged. Lower smoothing_head.learning_rate.")
    return values


def _trim(part: _Part, objective: _Objective, values: torch.Tensor, grid_size: int, head_bits: float) -> int:
    """The exponent of the least weight worth having: raising it lowers the ceiling of every loss."""
    alphas = part.alphas(values, grid_size)
    bounds = {}
    for least in range(1, grid_size + 1):
        kept = alphas.clamp_min(2.0**-least)
        bounds[least] = objective.best(part.losses(kept), kept, least, head_bits)
    return min(bounds, key=lambda each: bounds[each])


def _rounded(
    part: _Part, objective: _Objective, values: torch.Tensor, least: int
) -> Iterator[tuple[SmoothingHead, float]]:
    """Heads with the values rounded to coarser and coarser steps, each with its bound."""
    rms = float(values[:-1].square().mean().sqrt())
    for ratio in _STEP_RATIOS:
        exponent = exponent_of(ratio * rms)
        step = float(step_of(exponent))
        weights = torch.round(values[:-1] / step) * step
        # The bias takes over what rounding the weights moves on average.
        bias = values[-1:] + (values[:-1] - weights) @ part.shift
        codes = torch.round(torch.cat([weights, bias]) / step).clamp(-(2.0**29), 2.0**29)
        head = SmoothingHead(least, exponent, codes.to(torch.int32).numpy())
        alphas = part.alphas(torch.from_numpy(head.values()), least)
        yield head, objective.best(part.losses(alphas), alphas, least, 8.0 * len(head.to_part().data))
