"""Low-rank parameterization of targeted layers: W = W0 + (scale / r) · B · A, with W0 from the seed alone.

W0 is a buffer, filled by `build_model`; A (r × inputs) and B (outputs × r) are parameters. The rank r of a layer is the
configured rank, or the layer's smaller dimension if that is less. Source: Hu et al., 2022, "LoRA", equation 3, here on
a random initialization (Lotfi et al., 2024, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from tokenbounds.models.parameterizations.layers import replace_layers, weight_of, weight_shape

_ROWS_PER_RANK = 8
_MAX_DENSE_SHARE = 32


class BaseLayer(nn.Module):
    """A layer over a fixed weight.

    Attributes
    ----------
    fixed
        W0, float[outputs, inputs]; for an embedding outputs are tokens, inputs the width.
    """

    fixed: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, outputs: int, inputs: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("fixed", torch.zeros(outputs, inputs, device=device), persistent=False)


class LoraLayer(BaseLayer):
    """Weights shared by a low-rank linear layer and a low-rank embedding.

    Attributes
    ----------
    lora_a, lora_b
        Parameters float[r, inputs] and float[outputs, r].
    factor
        scale / r.
    """

    def __init__(self, outputs: int, inputs: int, settings: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(outputs, inputs, device)
        self.rank = rank = min(settings["rank"], outputs, inputs)
        self.factor = settings["scale"] / rank
        self.lora_a = nn.Parameter(torch.zeros(rank, inputs, device=device))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank, device=device))

    def dense_weight(self) -> torch.Tensor:
        """W0 + (scale / r) · B · A as one tensor [outputs, inputs]."""
        return torch.addmm(self.fixed, self.lora_b, self.lora_a, alpha=self.factor)

    def initial_std(self, factor: str, std: float) -> float:
        """B starts at zero, A keeps the scale of its inputs; W0 has the wanted `std` by itself."""
        return 1 / math.sqrt(3 * self.fixed.shape[1]) if factor == "lora_a" else 0.0

    def share(self, other: LoraLayer) -> None:
        """Share the tensors of `other`, as tied layers do."""
        self.fixed, self.lora_a, self.lora_b = other.fixed, other.lora_a, other.lora_b


class LoraLinear(LoraLayer):
    """A linear layer x ↦ x Wᵀ + b with low-rank W; replaces `nn.Linear` and transformers' `Conv1D`."""

    def __init__(self, layer: nn.Module, settings: Mapping[str, Any]) -> None:
        shape = weight_shape(layer)
        super().__init__(*shape, settings, weight_of(layer).device)
        self.out_features, self.in_features = shape
        self.bias = cast("nn.Parameter | None", layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float[..., inputs] to float[..., outputs] in whichever of two equal ways is faster."""
        if self._should_form_weight(x.numel() // self.in_features):
            return functional.linear(x, self.dense_weight(), self.bias)
        base = functional.linear(x, self.fixed, self.bias)
        low = functional.linear(x, self.lora_a * self.factor)  # [..., r]
        return base + functional.linear(low, self.lora_b)

    def _should_form_weight(self, rows: int) -> bool:
        """Whether to form W first: one wide product is faster than three, two of them thin, once there are enough rows.

        With gradients it costs W's gradient as well, which pays off only for narrow layers (measured on a CPU).
        """
        rank = self.rank  # not the shape of a factor, which may have to be computed first
        if rows < _ROWS_PER_RANK * rank:
            return False
        share = self.in_features * self.out_features / (rank * (self.in_features + self.out_features))
        return not torch.is_grad_enabled() or share <= _MAX_DENSE_SHARE


class LoraEmbedding(LoraLayer):
    """An embedding whose table W is low-rank."""

    def __init__(self, layer: nn.Embedding, settings: Mapping[str, Any]) -> None:
        super().__init__(layer.num_embeddings, layer.embedding_dim, settings, layer.weight.device)
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map int[...] to float[..., width]."""
        low = functional.linear(functional.embedding(ids, self.lora_b), (self.lora_a * self.factor).T)
        return functional.embedding(ids, self.fixed) + low


def apply(model: nn.Module, settings: Mapping[str, Any], role: Callable[[str], str | None]) -> None:
    """Replace the targeted layers, in the last blocks if `last_layers` says so; tied layers stay tied."""

    def make(layer: nn.Module, name: str, role: str) -> LoraLayer:
        return LoraEmbedding(layer, settings) if isinstance(layer, nn.Embedding) else LoraLinear(layer, settings)

    replace_layers(model, settings, within_last(model, settings, role), make)


def within_last(
    model: nn.Module, settings: Mapping[str, Any], role: Callable[[str], str | None]
) -> Callable[[str], str | None]:
    """`role` for modules outside the blocks and in the last ones that `last_layers` counts; none for the others."""
    blocks = [_block(name) for name, _ in model.named_modules() if role(name) is not None]
    first = max(blocks, default=-1) + 1 - (settings["last_layers"] or len(blocks))
    return lambda name: role(name) if _block(name) == -1 or _block(name) >= first else None


def _block(name: str) -> int:
    """The number of the transformer block that a module belongs to; -1 for one outside the blocks."""
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)
