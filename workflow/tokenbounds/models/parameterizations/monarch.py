"""Monarch matrices: W = P2ᵀ · L · P1 · R, two block-diagonal matrices with fixed permutations.

With b blocks and the middle width h = min(inputs, outputs), R has b blocks of h/b × inputs/b and L has b blocks of
outputs/b × h/b. Middle value f goes to position f div b of block f mod b of L, and value s of block l of L is output s
· b + l, so that every block of L reads from all of R. Source: Dao et al., 2022, "Monarch: Expressive structured
matrices for efficient and accurate training", definition 3.1, here for rectangles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from tokenbounds.errors import ModelError
from tokenbounds.models.parameterizations.layers import FactoredLayer, replace_layers, weight_of, weight_shape

_MOST_DIVISORS = 24


class MonarchLayer(FactoredLayer):
    """A linear layer or embedding whose weight is a Monarch matrix.

    Attributes
    ----------
    monarch_r, monarch_l
        Parameters float[b, h/b, inputs/b] and float[b, outputs/b, h/b].
    """

    factors = ("monarch_r", "monarch_l")

    def __init__(self, layer: nn.Module, blocks: int) -> None:
        super().__init__(layer)
        device = weight_of(layer).device
        self.blocks = blocks
        self.middle = min(self.inputs, self.outputs)
        each = self.middle // blocks
        self.monarch_r = nn.Parameter(torch.zeros(blocks, each, self.inputs // blocks, device=device))
        self.monarch_l = nn.Parameter(torch.zeros(blocks, self.outputs // blocks, each, device=device))

    def dense_weight(self) -> torch.Tensor:
        """The product of the four matrices as one tensor [outputs, inputs]."""
        right = torch.block_diag(*self.monarch_r)  # [h, inputs]
        left = torch.block_diag(*self.monarch_l)  # [outputs, h]
        between = torch.arange(self.middle, device=right.device).view(-1, self.blocks).T.flatten()
        outside = torch.arange(self.outputs, device=right.device).view(self.blocks, -1).T.flatten()
        return (left @ right[between])[outside]

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Two batched products with a permutation in between."""
        rows = x.reshape(-1, self.blocks, self.inputs // self.blocks)  # [n, b, inputs / b]
        # R: each block multiplies its own part of the inputs.
        middle = torch.bmm(rows.transpose(0, 1), self.monarch_r.transpose(1, 2))  # [b, n, h / b]
        # P1: middle value number f is value f div b of block f mod b of L.
        flat = middle.transpose(0, 1).reshape(-1, self.middle)  # [n, h]
        permuted = flat.view(-1, self.middle // self.blocks, self.blocks).permute(2, 0, 1)  # [b, n, h / b]
        y = torch.bmm(permuted, self.monarch_l.transpose(1, 2))  # L: [b, n, outputs / b]
        # P2ᵀ: value s of block l is output s · b + l.
        return y.permute(1, 2, 0).reshape(*x.shape[:-1], self.outputs)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Row s · b + l of W: row s of block l of L at its middle positions, zeros elsewhere, times R."""
        flat = ids.flatten()  # [n]
        values = self.monarch_l[flat % self.blocks, flat // self.blocks]  # [n, h / b]
        # The middle positions f = position · b + l of block l; all others are zero: [n, b, h / b], by blocks of R.
        chosen = torch.nn.functional.one_hot(flat % self.blocks, self.blocks).to(values.dtype)
        middle = (values[:, :, None] * chosen[:, None, :]).view(-1, self.blocks, self.middle // self.blocks)
        rows = torch.bmm(middle.transpose(0, 1), self.monarch_r).transpose(0, 1)
        return rows.reshape(*ids.shape, self.inputs)

    def initial_std(self, factor: str, std: float) -> float:
        """R keeps the scale of its inputs; L gives outputs the variance that a plain W would."""
        if factor == "monarch_r":
            return math.sqrt(self.blocks / self.inputs)
        return std * math.sqrt(self.inputs * self.blocks / self.middle)

    @torch.no_grad()
    def project(self, weight: torch.Tensor) -> None:
        """Best Monarch matrix in the Frobenius norm.

        Block k of R and block l of L meet in the middle values between them, and nowhere else: the rank of that
        part of W is their number, and its truncated singular value decomposition gives them (Dao et al., theorem 1).
        """
        outside = torch.arange(self.outputs, device=weight.device).view(-1, self.blocks).T
        for left in range(self.blocks):
            for right, columns in enumerate(torch.arange(self.inputs, device=weight.device).view(self.blocks, -1)):
                self._project_part(weight[outside[left]][:, columns], left, right)

    def _project_part(self, part: torch.Tensor, left: int, right: int) -> None:
        each = self.middle // self.blocks
        places = [place for place in range(each) if (right * each + place) % self.blocks == left]
        if not places:
            return
        u, s, vt = torch.linalg.svd(part.double(), full_matrices=False)
        roots = s.sqrt()
        for rank, place in enumerate(places):
            row = (right * each + place) // self.blocks
            self.monarch_r[right, place] = (vt[rank] * roots[rank]).to(part.dtype)
            self.monarch_l[left, :, row] = (u[:, rank] * roots[rank]).to(part.dtype)


def apply(model: nn.Module, settings: Mapping[str, Any], role: Callable[[str], str | None]) -> None:
    """Replace the targeted layers; tied layers stay tied.

    Raises
    ------
    ModelError
        If the number of blocks does not divide a layer's inputs and outputs; layer and divisors are named.
    """
    blocks = settings["blocks"]

    def make(layer: nn.Module, name: str, role: str) -> MonarchLayer:
        outputs, inputs = weight_shape(layer)
        common = math.gcd(outputs, inputs)
        if common % blocks:
            found = [str(divisor) for divisor in range(1, min(common, 1 << 12) + 1) if common % divisor == 0]
            raise ModelError(
                f"{name} is {outputs} × {inputs}: {blocks} Monarch blocks do not divide both. Blocks that do: "
                f"{', '.join(found[:_MOST_DIVISORS])}. Correct parameterization.blocks, or leave {role} out of targets."
            )
        return MonarchLayer(layer, blocks)

    replace_layers(model, settings, role, make)
