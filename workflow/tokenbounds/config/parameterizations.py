"""Parameterizations of trained models: which numbers are trained and coded, and how weights follow from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt

Role = Literal["attention", "mlp", "head", "embedding"]
Covered = Literal["attention", "mlp", "head", "embedding", "norms"]

Targets = Annotated[tuple[Role, ...], Field(min_length=1)]
Covers = Annotated[tuple[Covered, ...], Field(min_length=1)]
Shape = Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=2)]
Scale = Annotated[float, Field(gt=0)]

_TARGETS: tuple[Role, ...] = ("attention", "mlp")
_COVERS: tuple[Covered, ...] = ("attention", "mlp", "head", "embedding", "norms")


@dataclass(frozen=True, config=STRICT)
class Dense:
    """Every parameter is trained and coded."""

    kind: Literal["dense"]


@dataclass(frozen=True, config=STRICT)
class Lora:
    """Linear layers are W0 + (scale/rank)·B·A: W0 comes from the seed alone, only A and B are trained and coded."""

    kind: Literal["lora"]
    rank: PositiveInt = 8
    scale: Scale = 16.0
    targets: Targets = _TARGETS
    last_layers: PositiveInt | None = None


@dataclass(frozen=True, config=STRICT)
class Kronecker:
    """Linear layers are sums of Kronecker products A ⊗ B, cut to the layer's shape; only A and B are trained and coded.

    Without `left_shapes`, A has about √outputs rows and √inputs columns.
    """

    kind: Literal["kronecker"]
    terms: PositiveInt = 1
    left_shapes: dict[Role, Shape] = Field(default_factory=dict)
    initialization: Literal["random", "dense_projection"] = "random"
    targets: Targets = _TARGETS


@dataclass(frozen=True, config=STRICT)
class Monarch:
    """Linear layers are products of two block-diagonal matrices with a permutation between; the blocks are coded.

    The number of blocks must divide inputs and outputs of every targeted layer.
    """

    kind: Literal["monarch"]
    blocks: PositiveInt = 4
    targets: Targets = _TARGETS


Inner = Annotated[Dense | Lora | Kronecker | Monarch, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class Subspace:
    """All covered parameters are θ0 + P·z: θ0 and P come from the seed alone, only the few numbers z are coded.

    P is a Kronecker product of two random matrices. `over` says which parameters the model has: those of the plain
    model, or the factors of another parameterization, whose own keys stand there.
    """

    kind: Literal["subspace"]
    dimension: PositiveInt = 10000
    over: Inner = Field(default_factory=lambda: Dense(kind="dense"))
    covers: Covers = _COVERS


@dataclass(frozen=True, config=STRICT)
class SubLora:
    """A random subspace of LoRA's factors: short for `subspace` with `over: {kind: lora}`."""

    kind: Literal["sublora"]
    dimension: PositiveInt = 10000
    rank: PositiveInt = 8
    scale: Scale = 16.0
    targets: Targets = _TARGETS
    covers: Covers = _COVERS


@dataclass(frozen=True, config=STRICT)
class KroneckerSubspace:
    """A random subspace of Kronecker factors: short for `subspace` with `over: {kind: kronecker}`."""

    kind: Literal["kronecker_subspace"]
    dimension: PositiveInt = 10000
    terms: PositiveInt = 1
    left_shapes: dict[Role, Shape] = Field(default_factory=dict)
    targets: Targets = _TARGETS
    covers: Covers = _COVERS


Parameterization = Annotated[
    Dense | Lora | Kronecker | Monarch | Subspace | SubLora | KroneckerSubspace, Field(discriminator="kind")
]
