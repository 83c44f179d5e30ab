"""Layers whose weight follows from factors: what they share, and how they replace plain layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D


class FactoredLayer(nn.Module):
    """A linear layer x ↦ x Wᵀ + b, or an embedding of rows of W, whose weight W follows from trained factors.

    Attributes
    ----------
    outputs, inputs
        Shape of W; for an embedding outputs are tokens, inputs the width.
    is_embedding
        Whether the layer replaces an embedding.
    factors
        Names of its trained tensors.
    implied_values
        Values of W that are neither coded nor generated, but that an evaluation may form.
    """

    factors: tuple[str, ...]
    bias: torch.Tensor | None

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.outputs, self.inputs = weight_shape(layer)
        self.implied_values = self.outputs * self.inputs
        self.is_embedding = isinstance(layer, nn.Embedding)
        self.bias = cast("nn.Parameter | None", getattr(layer, "bias", None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float[..., inputs] to float[..., outputs], or int[...] to float[..., width]."""
        if self.is_embedding:
            return self.rows(x)
        if self.should_form_weight(x.numel() // self.inputs):
            return functional.linear(x, self.dense_weight(), self.bias)
        y = self.product(x)
        return y if self.bias is None else y + self.bias

    def dense_weight(self) -> torch.Tensor:
        """W as one tensor [outputs, inputs]."""
        raise NotImplementedError

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The product x Wᵀ, float[..., outputs], without forming W."""
        raise NotImplementedError

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows of W with the numbers int[...], as float[..., inputs], without forming W."""
        raise NotImplementedError

    def should_form_weight(self, rows: int) -> bool:
        """Whether a product with this many rows is faster with W formed first."""
        return False

    def initial_std(self, factor: str, std: float) -> float:
        """Standard deviation to draw a factor with, so that W's values have `std`."""
        raise NotImplementedError

    def project(self, weight: torch.Tensor) -> None:
        """Set the factors, in place, so that W is as near to `weight` [outputs, inputs] as possible."""
        raise NotImplementedError

    def share(self, other: FactoredLayer) -> None:
        """Share the factors of `other`, as tied layers do."""
        for name in self.factors:
            setattr(self, name, getattr(other, name))
        self.implied_values = 0


def weight_of(layer: nn.Module) -> torch.Tensor:
    """The weight of a linear layer or embedding."""
    return cast(torch.Tensor, layer.weight)


def is_transposed(layer: nn.Module) -> bool:
    """Whether a layer keeps its weight as [inputs, outputs], as GPT-2's do."""
    return isinstance(layer, Conv1D)


def weight_shape(layer: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear layer or embedding."""
    rows, columns = weight_of(layer).shape
    return (columns, rows) if is_transposed(layer) else (rows, columns)


def replace_layers(
    model: nn.Module,
    settings: Mapping[str, Any],
    role: Callable[[str], str | None],
    make: Callable[[nn.Module, str, str], Any],
) -> None:
    """Replace the layers whose role is targeted; tied layers stay tied, and either one's role targets both.

    `make(layer, name, role)` gives the new layer, which can `share` the tensors of another one. Of tied layers, both
    are made for the role of the first.
    """
    layers = {name: module for name, module in model.named_modules() if role(name) is not None}
    targeted = {id(layer.weight) for name, layer in layers.items() if role(name) in settings["targets"]}
    replaced: dict[int, tuple[Any, str]] = {}
    for name, layer in layers.items():
        tied = id(layer.weight)
        if tied not in targeted:
            continue
        first, first_role = replaced.get(tied, (None, str(role(name))))
        new = make(layer, name, first_role)
        if first is not None:
            new.share(first)
        replaced.setdefault(tied, (new, first_role))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
