"""Sums of Kronecker products: W = Σ_t A_t ⊗ B_t, cut to the layer's shape.

A_t is m1 × n1 and B_t is m2 × n2, with m1 · m2 ≥ outputs and n1 · n2 ≥ inputs; W is the first rows and columns. Row
i1 · m2 + i2 and column j1 · n2 + j2 of A ⊗ B hold A[i1, j1] · B[i2, j2], so that with x as a matrix X [n1, n2] the
product W x is A X Bᵀ. The nearest sum of Kronecker products comes from a truncated singular value decomposition:
C. Van Loan and N. Pitsianis, 1993, "Approximation with Kronecker products".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tokenbounds.errors import ModelError
from tokenbounds.models.parameterizations.layers import FactoredLayer, replace_layers, weight_of, weight_shape

_MOST_LOPSIDED = 4
_FORMING_ROWS = 8  # forming W costs as much as this many of its products with per row and term
_THIN_PENALTY = 5.0  # how much longer an operation takes in the thin products than in a wide one (on a CPU)


class KroneckerLayer(FactoredLayer):
    """A linear layer or embedding with W = Σ_t A_t ⊗ B_t, cut to the layer's shape.

    Attributes
    ----------
    kronecker_a, kronecker_b
        Parameters float[terms, m1, n1] and float[terms, m2, n2].
    """

    factors = ("kronecker_a", "kronecker_b")

    def __init__(self, layer: nn.Module, left: tuple[int, int], terms: int) -> None:
        super().__init__(layer)
        device = weight_of(layer).device
        self.terms = terms
        self.left = left
        self.right = (-(-self.outputs // left[0]), -(-self.inputs // left[1]))
        self.kronecker_a = nn.Parameter(torch.zeros(terms, *self.left, device=device))
        self.kronecker_b = nn.Parameter(torch.zeros(terms, *self.right, device=device))

    def dense_weight(self) -> torch.Tensor:
        """Σ_t A_t ⊗ B_t as one tensor [outputs, inputs]."""
        (m1, n1), (m2, n2) = self.left, self.right
        product = self.kronecker_a.flatten(1).T @ self.kronecker_b.flatten(1)  # [m1 · n1, m2 · n2], summed over terms
        whole = product.view(m1, n1, m2, n2).transpose(1, 2).reshape(m1 * m2, n1 * n2)
        return whole[: self.outputs, : self.inputs]

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Σ_t A_t X B_tᵀ for every row of x, with the cheaper of the two products first."""
        (m1, n1), (m2, n2) = self.left, self.right
        rows = x.reshape(-1, self.inputs)
        matrix = functional.pad(rows, (0, n1 * n2 - self.inputs)).view(-1, n1, n2)  # X of each row, [r, n1, n2]
        # The sum over terms is part of the second product: the first one's results are stacked along its inner axis.
        if self._right_first():
            right = matrix @ self.kronecker_b.flatten(0, 1).T  # X B_tᵀ, [r, n1, terms · m2]
            stacked = right.view(-1, n1, self.terms, m2).transpose(1, 2).reshape(-1, self.terms * n1, m2)
            y = self.kronecker_a.transpose(0, 1).reshape(m1, self.terms * n1) @ stacked  # [r, m1, m2]
        else:
            left = self.kronecker_a.flatten(0, 1) @ matrix  # A_t X, [r, terms · m1, n2]
            stacked = left.view(-1, self.terms, m1, n2).transpose(1, 2).reshape(-1, m1, self.terms * n2)
            y = stacked @ self.kronecker_b.transpose(0, 1).reshape(m2, self.terms * n2).T  # [r, m1, m2]
        return y.flatten(1)[:, : self.outputs].reshape(*x.shape[:-1], self.outputs)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Row i of W is Σ_t (row i1 of A_t) ⊗ (row i2 of B_t)."""
        upper = self.kronecker_a.transpose(0, 1)[ids // self.right[0]]  # [..., terms, n1]
        lower = self.kronecker_b.transpose(0, 1)[ids % self.right[0]]  # [..., terms, n2]
        return (upper.transpose(-1, -2) @ lower).flatten(-2)[..., : self.inputs]

    def should_form_weight(self, rows: int) -> bool:
        """One wide product is faster than thin ones once there are enough rows and the thin ones save little."""
        wide = self.outputs * self.inputs
        return rows >= _FORMING_ROWS * self.terms and wide <= _THIN_PENALTY * self.terms * min(self._operations())

    def _operations(self) -> tuple[int, int]:
        """Multiplications per row and term, with the right factor first and with the left one first."""
        (m1, n1), (m2, n2) = self.left, self.right
        return m2 * n1 * (n2 + m1), m1 * n2 * (n1 + m2)

    def _right_first(self) -> bool:
        right, left = self._operations()
        return right <= left

    def initial_std(self, factor: str, std: float) -> float:
        """The same for both factors: the variance of W is terms · (their variance)²."""
        return math.sqrt(std / math.sqrt(self.terms))

    @torch.no_grad()
    def project(self, weight: torch.Tensor) -> None:
        """Best sum of `terms` Kronecker products in the Frobenius norm, of `weight` padded with zeros."""
        for parameter, value in zip(
            (self.kronecker_a, self.kronecker_b),
            nearest_kronecker(weight, self.left, self.right, self.terms),
            strict=True,
        ):
            parameter.copy_(value)


def nearest_kronecker(
    weight: torch.Tensor, left: tuple[int, int], right: tuple[int, int], terms: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of Kronecker products nearest to a matrix in the Frobenius norm.

    With the entry (i1 · m2 + i2, j1 · n2 + j2) of W at row (i1, j1) and column (i2, j2), A ⊗ B is vec(A) vec(B)ᵀ, so
    the truncated singular value decomposition of the rearranged W is the answer (Van Loan and Pitsianis, 1993, theorem
    2; Eckart and Young).

    Parameters
    ----------
    weight : float[outputs, inputs]
        Padded with zeros to m1 · m2 rows and n1 · n2 columns.
    left, right
        (m1, n1) and (m2, n2).
    terms
        Number of products; those above the rearranged matrix's rank are zero.

    Returns
    -------
    a, b : float[terms, m1, n1], float[terms, m2, n2]
        Every singular value is shared equally by its two factors.
    """
    (m1, n1), (m2, n2) = left, right
    padded = functional.pad(weight, (0, n1 * n2 - weight.shape[1], 0, m1 * m2 - weight.shape[0]))
    rearranged = padded.view(m1, m2, n1, n2).transpose(1, 2).reshape(m1 * n1, m2 * n2)
    u, s, vt = torch.linalg.svd(rearranged.double(), full_matrices=False)
    roots = s.sqrt()
    rank = min(terms, len(s))
    a, b = weight.new_zeros(terms, m1, n1), weight.new_zeros(terms, m2, n2)
    a[:rank] = (u * roots).T[:rank].reshape(rank, m1, n1)
    b[:rank] = (vt * roots[:, None])[:rank].reshape(rank, m2, n2)
    return a, b


def near_square(size: int) -> tuple[int, int]:
    """Two near-equal whole numbers whose product is `size`, or slightly exceeds it where divisors are lopsided.

    The smaller comes first. 512 = 16 · 32, but 257 is prime and becomes 16 · 17 = 272.
    """
    low = next(divisor for divisor in range(math.isqrt(size), 0, -1) if size % divisor == 0)
    if size // low <= _MOST_LOPSIDED * low:
        return low, size // low
    high = math.isqrt(size - 1) + 1
    return -(-size // high), high


def apply(model: nn.Module, settings: Mapping[str, Any], role: Callable[[str], str | None]) -> None:
    """Replace the targeted layers; tied layers stay tied.

    Raises
    ------
    ModelError
        If a left factor is larger than its layer; the layer is named.
    """

    def make(layer: nn.Module, name: str, role: str) -> KroneckerLayer:
        outputs, inputs = weight_shape(layer)
        wanted = settings["left_shapes"].get(role)
        left = tuple(wanted) if wanted else (near_square(outputs)[0], near_square(inputs)[0])
        if left[0] > outputs or left[1] > inputs:
            raise ModelError(
                f"{name} is {outputs} × {inputs}; a left factor of {left[0]} × {left[1]} is larger. Correct "
                f"parameterization.left_shapes.{role}."
            )
        return KroneckerLayer(layer, (left[0], left[1]), settings["terms"])

    replace_layers(model, settings, role, make)
