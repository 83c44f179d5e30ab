"""Random subspaces: all covered parameters together are θ = θ0 + P z, and only z is coded.

θ0 and P come from the seed. P is a Kronecker product Q1 ⊗ Q2 of two random matrices of about √D × √d values for D
covered parameters and d values of z, so it takes √(D d) memory, and P z is Q1 Z Q2ᵀ with z as a matrix Z. Sources: Li
et al., 2018, "Measuring the intrinsic dimension of objective landscapes", equation 2; Lotfi et al., 2022, "PAC-Bayes
compression bounds so tight that they can explain generalization", section 4 (Kronecker projectors).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from tokenbounds.models.parameterizations import apply_parameterization

_MOST_LOPSIDED = 4


class Subspace(nn.Module):
    """The trained vector z and the projector P = Q1 ⊗ Q2.

    P's values have variance 1/d, so a covered parameter moves by about as much as a value of z does.

    Attributes
    ----------
    z
        Parameter float[d1, d2], with d1 · d2 the dimension d.
    left, right
        Q1 and Q2, float[D1, d1] and float[D2, d2], with D1 · D2 ≥ D; filled by `build_model`.
    covered
        D, the number of covered parameters.
    """

    left: torch.Tensor
    right: torch.Tensor

    def __init__(self, dimension: int, covered: int, device: torch.device) -> None:
        super().__init__()
        rows, columns = dimension_shape(dimension)
        self.covered = covered
        tall, wide = _projector_rows(covered)
        self.z = nn.Parameter(torch.zeros(rows, columns, device=device))
        self.register_buffer("left", torch.zeros(tall, rows, device=device), persistent=False)
        self.register_buffer("right", torch.zeros(wide, columns, device=device), persistent=False)

    def shift(self, first: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Values `first`, `first` + 1, … of P z, as many as `shape` holds; only the rows of Q1 they need are used."""
        # P z, read as a matrix of D1 rows, is Q1 Z Q2ᵀ [D1, D2]: its rows from `top` on hold the values wanted.
        wide = self.right.shape[0]
        last = first + math.prod(shape)
        top, bottom = first // wide, -(-last // wide)
        rows = (self.left[top:bottom] @ self.z) @ self.right.T  # [bottom − top, D2]
        return rows.flatten()[first - top * wide : last - top * wide].view(shape)

    def projector_std(self, leaf: str) -> float:
        """Standard deviation of Q1's or Q2's values."""
        return 1 / math.sqrt(self.z.shape[0 if leaf == "left" else 1])


class _Shifted(nn.Module):
    """θ0 ↦ θ0 + its part of P z."""

    def __init__(self, subspace: Subspace, first: int) -> None:
        super().__init__()
        self._subspace = (subspace,)  # in a tuple, so that the subspace is a module of the model and of nothing else
        self._first = first

    def forward(self, start: torch.Tensor) -> torch.Tensor:
        return start + self._subspace[0].shift(self._first, tuple(start.shape))


def dimension_shape(dimension: int) -> tuple[int, int]:
    """Shape of z as a matrix: near-equal numbers whose product is the dimension, or slightly less if there are none."""
    low = math.isqrt(dimension)
    for divisor in range(low, low // 2, -1):
        if dimension % divisor == 0 and dimension // divisor <= _MOST_LOPSIDED * divisor:
            return divisor, dimension // divisor
    return low, dimension // low


def projector_values(covered: int, dimension: int) -> int:
    """Number of values of Q1 and Q2."""
    return sum(tall * wide for tall, wide in zip(_projector_rows(covered), dimension_shape(dimension), strict=True))


def _projector_rows(covered: int) -> tuple[int, int]:
    tall = math.isqrt(max(covered - 1, 0)) + 1
    return tall, -(-covered // tall)


def apply(model: nn.Module, settings: Mapping[str, Any], role: Callable[[str], str | None]) -> None:
    """Apply the parameterization below, then let every covered parameter be computed from z."""
    apply_parameterization(model, settings["over"], role)
    places = _covered_places(model, settings["covers"], role)
    covered = sum(uses[0][2].numel() for uses in places)
    device = places[0][0][2].device if places else torch.device("cpu")
    subspace = Subspace(settings["dimension"], covered, device)
    first = 0
    for uses in places:
        start = uses[0][2].detach()
        for owner, leaf, _ in uses:
            delattr(owner, leaf)
            owner.register_buffer(leaf, start)
            register_parametrization(owner, leaf, _Shifted(subspace, first), unsafe=True)
        first += start.numel()
    model.subspace = subspace


def _covered_places(
    model: nn.Module, covers: tuple[str, ...], role: Callable[[str], str | None]
) -> list[list[tuple[nn.Module, str, nn.Parameter]]]:
    """For each covered parameter, all modules that hold it, with its name there; the role of any one covers it."""
    places: dict[int, list[tuple[nn.Module, str, nn.Parameter]]] = {}
    covered: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, leaf = name.rpartition(".")
        places.setdefault(id(parameter), []).append((model.get_submodule(owner), leaf, parameter))
        if (role(owner) or "norms") in covers:
            covered.add(id(parameter))
    return [uses for key, uses in places.items() if key in covered]
