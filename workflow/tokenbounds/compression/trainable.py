"""Quantized tensors that can be trained: straight-through values and a differentiable estimate of their bits.

Forward, a weight is its quantized value; backward, rounding is the identity (Bengio et al. 2013, arXiv 1308.3432).
Steps and codebook values are learned with the weights. The bits of a code come from a table of code lengths,
refitted to the present codes, and interpolated linearly between neighbouring codes: its slope is what moving to the
cheaper neighbour saves, and at the optimum refitting has no gradient of its own (the envelope theorem).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from tokenbounds.messages.formats import Quantized
from tokenbounds.messages.formats.codebook import CodebookQuantized, round_codebook
from tokenbounds.messages.formats.uniform import (
    EXPONENTS,
    LEAST_EXPONENT,
    STEPS_PER_OCTAVE,
    UniformQuantized,
    default_value,
)

_REACH = 127  # codes beyond ± this are priced along a straight line
_VECTOR_SIZE = 1024  # arrays shorter than this are too few for a histogram: a geometric law is fitted instead


def straight_through(exact: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The value of `rounded`, the gradient of `exact`."""
    return exact + (rounded - exact).detach()


class TrainableTensor(nn.Module):
    """One tensor: its float weight and whatever its quantizer learns besides."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(np.array(weight, dtype=np.float32)))

    def quantized(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The quantized value, in the weight's shape, and its estimated bits, a scalar."""
        raise NotImplementedError

    def refit(self) -> None:
        """Fit the code lengths to the present codes."""

    def settle(self) -> None:
        """Restore invariants after an optimizer step."""

    def scales(self) -> list[nn.Parameter]:
        """The learned scales, trained with their own learning rate."""
        raise NotImplementedError


class TrainableUniform(TrainableTensor):
    """A tensor on a uniform grid whose step is learned in the logarithm (Esser et al. 2020, arXiv 1902.08153)."""

    lengths: torch.Tensor

    def __init__(self, weight: np.ndarray, exponent: int, default: float) -> None:
        super().__init__(weight)
        self.default = default
        self.octaves = nn.Parameter(torch.tensor(exponent / STEPS_PER_OCTAVE, dtype=torch.float32))
        self.register_buffer("lengths", torch.zeros(2 * _REACH + 1))
        self.refit()

    def _scaled(self) -> tuple[torch.Tensor, torch.Tensor]:
        rounded = torch.round(self.octaves * STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE
        step = torch.exp2(straight_through(self.octaves, rounded))
        return (self.weight - self.default) / step, step

    def quantized(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See the base class; gradients reach weight and step through value and bits alike."""
        scaled, step = self._scaled()
        value = straight_through(scaled, torch.round(scaled)) * step + self.default
        return value, interpolate(self.lengths, scaled.flatten() + _REACH).sum()

    @torch.no_grad()
    def refit(self) -> None:
        """Smoothed histogram of the codes, or a geometric law for short arrays; in bits."""
        codes = torch.round(self._scaled()[0]).flatten()
        self.lengths.copy_(code_lengths(codes))

    def exponent(self) -> int:
        """The step's exponent on the message's grid."""
        exponent = round(float(self.octaves.detach()) * STEPS_PER_OCTAVE)
        return min(max(exponent, LEAST_EXPONENT), LEAST_EXPONENT + EXPONENTS - 1)

    def scales(self) -> list[nn.Parameter]:
        """The logarithm of the step."""
        return [self.octaves]


class TrainableCodebook(TrainableTensor):
    """A matrix with a learned codebook: a value's gradient is the sum over the weights that use it."""

    lengths: torch.Tensor

    def __init__(self, weight: np.ndarray, codebook: np.ndarray) -> None:
        super().__init__(weight)
        self.codebook = nn.Parameter(torch.from_numpy(codebook.astype(np.float32)))
        self.register_buffer("lengths", torch.zeros(len(codebook)))
        self.refit()

    def _indices(self) -> torch.Tensor:
        edges = (self.codebook[1:] + self.codebook[:-1]) / 2
        return torch.bucketize(self.weight.detach(), edges.detach())

    def quantized(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See the base class."""
        rounded = straight_through(self.codebook, self.codebook.half().float())
        value = rounded[self._indices()] + (self.weight - self.weight.detach())
        return value, interpolate(self.lengths, self._position().flatten()).sum()

    def _position(self) -> torch.Tensor:
        """Where each weight is among the codebook's values: index of the lower one plus the share of the way up."""
        book = self.codebook.detach()
        if len(book) < 2:
            return torch.zeros_like(self.weight)
        lower = (torch.bucketize(self.weight.detach(), book, right=True) - 1).clamp(0, len(book) - 2)
        width = (book[lower + 1] - book[lower]).clamp_min(1e-12)
        return lower + ((self.weight - book[lower]) / width)

    @torch.no_grad()
    def refit(self) -> None:
        """Code lengths of the indices, in bits."""
        counts = torch.bincount(self._indices().flatten(), minlength=len(self.codebook)).float() + 0.5
        self.lengths.copy_(-torch.log2(counts / counts.sum()))

    @torch.no_grad()
    def settle(self) -> None:
        """Keep the codebook sorted."""
        self.codebook.copy_(torch.sort(self.codebook).values)

    def scales(self) -> list[nn.Parameter]:
        """The codebook's values train like weights."""
        return []


def interpolate(lengths: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Code lengths in bits at fractional positions of a table, clamped to its ends."""
    if len(lengths) < 2:
        return torch.zeros_like(position)
    inside = position.clamp(0, len(lengths) - 1)
    lower = inside.detach().floor().long().clamp(0, len(lengths) - 2)
    base = lengths[lower]
    return base + (inside - lower) * (lengths[lower + 1] - base)


def code_lengths(codes: torch.Tensor) -> torch.Tensor:
    """Bits of each code in [-127, 127] under a law fitted to `codes`.

    Long arrays: their histogram, smoothed by the geometric law of the same mean magnitude so that no code is
    impossible. Short ones: that law alone, p(k) = (1 − θ)/(1 + θ) · θ^|k|.
    """
    codes = codes.clamp(-_REACH, _REACH)
    mean = float(codes.abs().mean()) if len(codes) else 0.0
    theta = max(mean / (1 + (1 + mean * mean) ** 0.5), 1e-4)
    grid = torch.arange(-_REACH, _REACH + 1, dtype=torch.float32, device=codes.device)
    law = (1 - theta) / (1 + theta) * theta ** grid.abs()
    if len(codes) >= _VECTOR_SIZE:
        counts = torch.bincount((codes + _REACH).long(), minlength=2 * _REACH + 1).float()
        law = (counts + 4.0 * law) / (len(codes) + 4.0)
    return -torch.log2(law.clamp_min(1e-12))


class TrainableQuantization:
    """All tensors of a model, trainable; `freeze` rounds for good."""

    def __init__(self, tensors: dict[str, TrainableTensor]) -> None:
        self._tensors = tensors

    def freeze(self) -> Quantized:
        """What the message will hold."""
        raise NotImplementedError

    def items(self) -> Iterator[tuple[str, TrainableTensor]]:
        """Names and tensors in the model's order."""
        yield from self._tensors.items()

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return [parameter for tensor in self._tensors.values() for parameter in tensor.parameters()]

    def scales(self) -> list[nn.Parameter]:
        """Those of `parameters` that are scales."""
        return [scale for tensor in self._tensors.values() for scale in tensor.scales()]

    def refit(self) -> None:
        """Fit all code lengths to the present codes."""
        for tensor in self._tensors.values():
            tensor.refit()

    def settle(self) -> None:
        """Restore invariants after an optimizer step."""
        for tensor in self._tensors.values():
            tensor.settle()


def _uniform_tensor(name: str, weight: np.ndarray, quantized: UniformQuantized) -> TrainableUniform:
    return TrainableUniform(weight, quantized.exponents[name], float(default_value(name, weight.shape)))


def _freeze_uniform(tensors: dict[str, TrainableUniform]) -> UniformQuantized:
    weights = {name: tensor.weight.detach().cpu().numpy() for name, tensor in tensors.items()}
    return UniformQuantized.round(weights, {name: tensor.exponent() for name, tensor in tensors.items()})


class TrainableUniformModel(TrainableQuantization):
    """Trains what `UniformQuantized` holds."""

    def __init__(self, weights: dict[str, np.ndarray], quantized: UniformQuantized) -> None:
        super().__init__({name: _uniform_tensor(name, weight, quantized) for name, weight in weights.items()})

    def freeze(self) -> UniformQuantized:
        """Round to the learned steps."""
        return _freeze_uniform({name: tensor for name, tensor in self.items() if isinstance(tensor, TrainableUniform)})


class TrainableCodebookModel(TrainableQuantization):
    """Trains what `CodebookQuantized` holds."""

    def __init__(self, weights: dict[str, np.ndarray], quantized: CodebookQuantized) -> None:
        tensors: dict[str, TrainableTensor] = {}
        for name, weight in weights.items():
            if name in quantized.codebooks:
                tensors[name] = TrainableCodebook(weight, quantized.codebooks[name])
            else:
                tensors[name] = _uniform_tensor(name, weight, quantized.vectors)
        super().__init__(tensors)

    def freeze(self) -> CodebookQuantized:
        """Round to the learned codebooks."""
        weights, books, vectors = {}, {}, {}
        for name, tensor in self.items():
            weights[name] = tensor.weight.detach().cpu().numpy()
            if isinstance(tensor, TrainableCodebook):
                books[name] = round_codebook(tensor.codebook.detach().cpu().numpy())
            elif isinstance(tensor, TrainableUniform):
                vectors[name] = tensor
        return CodebookQuantized.assign(weights, books, _freeze_uniform(vectors))


def trainable_quantization(weights: dict[str, np.ndarray], quantized: Quantized) -> TrainableQuantization:
    """The trainable counterpart of a quantized model."""
    if isinstance(quantized, CodebookQuantized):
        return TrainableCodebookModel(weights, quantized)
    if isinstance(quantized, UniformQuantized):
        return TrainableUniformModel(weights, quantized)
    raise TypeError(f"no straight-through training for {type(quantized).__name__}")
