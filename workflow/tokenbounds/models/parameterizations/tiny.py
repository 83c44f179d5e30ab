"""One short vector that moves every targeted layer: W = W0 + scale · B · R(z) · A, and only z is coded.

A (r × inputs), B (outputs × r) and the directions of R(z) = Σ_i z_i P_i (r × r) come from a seed; z is shared by all
layers, so that an adapter may be a few numbers long. After Morris et al., 2026, "Learning to reason in 13 parameters"
(TinyLoRA, arXiv 2602.04118), whose A and B are singular vectors of W0: no two libraries compute those bit for bit
alike, and a message must decode to one model, hence random ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tokenbounds.models.generator import uniform
from tokenbounds.models.parameterizations.layers import replace_layers, weight_shape
from tokenbounds.models.parameterizations.lora import BaseLayer, within_last


class TinyVector(nn.Module):
    """The vector z, float[dimension], which all layers share."""

    def __init__(self, dimension: int, device: torch.device) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.zeros(dimension, device=device))


class TinyLayer(BaseLayer):
    """A linear layer or embedding whose fixed weight W0 is moved by the shared vector.

    Attributes
    ----------
    fixed
        W0, float[outputs, inputs], the base's.
    left, right
        B and A, float[outputs, r] and float[r, inputs], from the seed.
    directions
        P, float[r · r, dimension], from the seed.
    """

    left: torch.Tensor
    right: torch.Tensor
    directions: torch.Tensor

    def __init__(self, layer: nn.Module, settings: Mapping[str, Any], vector: TinyVector) -> None:
        outputs, inputs = weight_shape(layer)
        device = vector.z.device
        super().__init__(outputs, inputs, device)
        self.rank = min(settings["rank"], outputs, inputs)
        self.scale = settings["scale"]
        self.is_embedding = isinstance(layer, nn.Embedding)
        self.bias = getattr(layer, "bias", None)
        self._vector = (vector,)  # in a tuple, so that the vector is a module of the model and of nothing else
        for name, shape in self.projections(settings["dimension"]).items():
            self.register_buffer(name, torch.zeros(shape, device=device), persistent=False)

    def projections(self, dimension: int) -> dict[str, tuple[int, int]]:
        """Shapes of the tensors from the seed, by name."""
        return {
            "left": (self.fixed.shape[0], self.rank),
            "right": (self.rank, self.fixed.shape[1]),
            "directions": (self.rank * self.rank, dimension),
        }

    def generate(self, seed: int, name: str) -> None:
        """Fill B, A and P, in place, from the seed and the layer's name, so that W moves by about scale · |z|."""
        for leaf, shape in self.projections(self.directions.shape[1]).items():
            # Products of r · r terms, and an input of r x inputs values: variances that keep the size of outputs.
            std = 1 / math.sqrt(shape[1] if leaf == "right" else self.rank)
            getattr(self, leaf).copy_(torch.from_numpy(uniform(seed, f"tiny/{name}/{leaf}", shape, std)))

    def core(self) -> torch.Tensor:
        """The matrix scale · R(z), float[r, r]."""
        return self.scale * (self.directions @ self._vector[0].z).view(self.rank, self.rank)

    def dense_weight(self) -> torch.Tensor:
        """W0 + scale · B · R(z) · A as one tensor [outputs, inputs]."""
        return self.fixed + self.left @ (self.core() @ self.right)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float[..., inputs] to float[..., outputs], or int[...] to float[..., width]."""
        if self.is_embedding:
            moved = functional.linear(functional.embedding(x, self.left), (self.core() @ self.right).T)
            return functional.embedding(x, self.fixed) + moved
        low = functional.linear(x, self.core() @ self.right)  # [..., r]
        return functional.linear(x, self.fixed, self.bias) + functional.linear(low, self.left)

    def share(self, other: TinyLayer) -> None:
        """Share the tensors of `other`, as tied layers do."""
        self.fixed, self.left, self.right, self.directions = other.fixed, other.left, other.right, other.directions


def apply(model: nn.Module, settings: Mapping[str, Any], role: Callable[[str], str | None]) -> None:
    """Replace the targeted layers, in the last blocks if `last_layers` says so; the model gets the vector as `tiny`."""
    vector = TinyVector(settings["dimension"], next(model.parameters()).device)
    replace_layers(
        model, settings, within_last(model, settings, role), lambda layer, *_: TinyLayer(layer, settings, vector)
    )
    model.tiny = vector


def generate_projections(model: nn.Module, seed: int) -> None:
    """Fill what comes from the seed in every layer of a model, in place; of tied layers the first one names it."""
    done: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, TinyLayer) and id(module.left) not in done:
            module.generate(seed, name)
            done.add(id(module.left))
