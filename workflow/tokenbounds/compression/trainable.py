"""Quantized tensors that can be trained: straight-through values and a differentiable estimate of their bits.

Forward, a weight is its quantized value; backward, rounding is the identity (Bengio et al. 2013, arXiv 1308.3432).
Steps and codebook values are learned with the weights. The bits of a code come from a table of code lengths, refitted
to the present codes, and interpolated linearly between neighbouring codes: its slope is the saving from moving to the
cheaper neighbour, and at the optimum refitting adds no gradient of its own (the envelope theorem).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from tokenbounds.compression.grids import round_to_steps
from tokenbounds.messages.formats.grid import (
    EXPONENTS,
    LEAST_EXPONENT,
    STEPS_PER_OCTAVE,
    GridTensors,
    default_value,
)

_REACH = 127  # codes beyond ± this are priced along a straight line
_VECTOR_SIZE = 1024  # arrays shorter than this are too few for a histogram: a geometric law is fitted instead


def straight_through(exact: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The value of `rounded`, the gradient of `exact`."""
    return exact + (rounded - exact).detach()


class TrainableTensor(nn.Module):
    """One tensor: its float weight and whatever else its quantizer learns."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(np.array(weight, dtype=np.float32)))

    def values(self) -> np.ndarray:
        """The float weight as it is now, float32."""
        return self.weight.detach().cpu().numpy()

    def quantized(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The quantized value, in the weight's shape, and its estimated bits, a scalar."""
        raise NotImplementedError

    def refit(self) -> None:
        """Fit the code lengths to the present codes."""

    def settle(self) -> None:
        """Restore invariants after an optimizer step."""

    def scales(self) -> Sequence[nn.Parameter]:
        """The learned scales, trained with their own learning rate."""
        return ()


class TrainableGrid(TrainableTensor):
    """A tensor on a grid whose step is learned in the logarithm (Esser et al. 2020, arXiv 1902.08153)."""

    lengths: torch.Tensor

    def __init__(self, name: str, weight: np.ndarray, exponent: int) -> None:
        super().__init__(weight)
        self.default = float(default_value(name, weight.shape))
        self.octaves = nn.Parameter(torch.tensor(exponent / STEPS_PER_OCTAVE, dtype=torch.float32))
        self.register_buffer("lengths", torch.zeros(2 * _REACH + 1))
        self.refit()

    def _scaled(self) -> tuple[torch.Tensor, torch.Tensor]:
        rounded = torch.round(self.octaves * STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE
        step = torch.exp2(straight_through(self.octaves, rounded))
        return (self.weight - self.default) / step, step

    def quantized(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See the base class; gradients reach weight and step through value and bits alike."""
        scaled, step = self._scaled()  # the weight in steps, in its shape; a scalar
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


def interpolate(lengths: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Code lengths in bits at fractional positions of a table, clamped to its ends."""
    if len(lengths) < 2:
        return torch.zeros_like(position)
    # Which two codes a position is between has no gradient; its distance from the lower one has.
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


def freeze_grids(tensors: Mapping[str, TrainableGrid]) -> GridTensors:
    """Round permanently, to the learned steps."""
    weights = {name: tensor.values() for name, tensor in tensors.items()}
    return round_to_steps(weights, {name: tensor.exponent() for name, tensor in tensors.items()})
