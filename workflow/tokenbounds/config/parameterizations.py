"""Parameterizations of trained models: which numbers are trained and coded, and how weights follow from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt

Role = Literal["attention", "mlp", "head", "embedding"]
Covered = Literal["attention", "mlp", "head", "embedding", "norms"]

Targets = Annotated[tuple[Role, ...], Field(min_length=1)]
Shape = Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=2)]

_TARGETS: tuple[Role, ...] = ("attention", "mlp")
_COVERS: tuple[Covered, ...] = ("attention", "mlp", "head", "embedding", "norms")

Rank = Annotated[PositiveInt, Field(description="Rank of the trained factors.")]
Scale = Annotated[float, Field(gt=0, description="Factor of their product, divided by the rank.")]
Terms = Annotated[PositiveInt, Field(description="Number of Kronecker products in a layer's sum.")]
LeftShapes = Annotated[
    dict[Role, Shape],
    Field(description="Rows (outputs) and columns (inputs) of the left factor A, for layers of a role."),
]
FactoredTargets = Annotated[
    Targets, Field(description="Layers that are parameterized this way; all others are trained and coded in full.")
]
Dimension = Annotated[
    PositiveInt,
    Field(description="Numbers in z; rounded down to a product of two near-equal numbers where it is not one."),
]
Covers = Annotated[
    tuple[Covered, ...],
    Field(
        min_length=1,
        description="What z covers: the trained numbers of layers by role, biases included, and of "
        "`norms`; all others are trained and coded in full.",
    ),
]
SubspaceTargets = Annotated[
    Targets,
    Field(description="Layers that are parameterized this way; the others stay as they are under the subspace."),
]


@dataclass(frozen=True, config=STRICT)
class Dense:
    """Every parameter is trained and coded."""

    kind: Literal["dense"]


@dataclass(frozen=True, config=STRICT)
class Lora:
    """Linear layers are W0 + (scale/rank)·B·A: W0 comes from the seed alone, only A and B are trained and coded."""

    kind: Literal["lora"]
    rank: Rank = 8
    scale: Scale = 16.0
    targets: Annotated[
        Targets,
        Field(
            description="Layers that are parameterized this way; all others are trained and coded in full, or left "
            "as a base has them."
        ),
    ] = _TARGETS
    last_layers: Annotated[
        PositiveInt | None,
        Field(description="Only this many transformer blocks, counted from the last one; `null`: all."),
    ] = None


@dataclass(frozen=True, config=STRICT)
class Tiny:
    """Layers of a base are W0 + scale · B · R(z) · A, where A, B and R come from `seed`: only the vector z is coded.

    One z moves every targeted layer, so that an adapter may have a dozen numbers. For fine-tuned models only.
    """

    kind: Literal["tiny"]
    dimension: Annotated[int, Field(ge=1, le=256, description="Numbers in z.")] = 16
    rank: Annotated[int, Field(ge=1, le=16, description="Rank of what is added to a layer.")] = 2
    scale: Annotated[float, Field(gt=0, description="Factor of what is added.")] = 1.0
    targets: Annotated[Targets, Field(description="Layers that z moves; the others stay as the base has them.")] = (
        _TARGETS
    )
    last_layers: Annotated[
        PositiveInt | None,
        Field(description="Only this many transformer blocks, counted from the last one; `null`: all."),
    ] = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63, description="Seed of A, B and R, which the message names.")] = 0


@dataclass(frozen=True, config=STRICT)
class Kronecker:
    """Linear layers are sums of Kronecker products A ⊗ B, cut to the layer's shape; only A and B are trained and coded.

    Without `left_shapes`, A has about √outputs rows and √inputs columns.
    """

    kind: Literal["kronecker"]
    terms: Terms = 1
    left_shapes: LeftShapes = Field(default_factory=dict)
    initialization: Annotated[
        Literal["random", "dense_projection"],
        Field(
            description="`random` initializes the factors; `dense_projection` initializes the dense layer and takes "
            "the nearest sum of Kronecker products."
        ),
    ] = "random"
    targets: FactoredTargets = _TARGETS


@dataclass(frozen=True, config=STRICT)
class Monarch:
    """Linear layers are products of two block-diagonal matrices with a permutation in between; the blocks are coded.

    The number of blocks must divide inputs and outputs of every targeted layer.
    """

    kind: Literal["monarch"]
    blocks: Annotated[
        PositiveInt, Field(description="Number of blocks in each of the two block-diagonal matrices.")
    ] = 4
    targets: FactoredTargets = _TARGETS


Inner = Annotated[Dense | Lora | Kronecker | Monarch, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class Subspace:
    """All covered parameters are θ0 + P·z: θ0 and P come from the seed alone, only the few numbers z are coded.

    P is a Kronecker product of two random matrices. `over` says which parameters the model has: those of the plain
    model, or the factors of another parameterization, whose own keys go there.
    """

    kind: Literal["subspace"]
    dimension: Dimension = 10000
    over: Annotated[
        Inner,
        Field(
            description="The parameterization whose trained numbers the subspace covers; `kind: dense` are the "
            "plain model's."
        ),
    ] = Field(default_factory=lambda: Dense(kind="dense"))
    covers: Covers = _COVERS


@dataclass(frozen=True, config=STRICT)
class SubLora:
    """A random subspace of LoRA's factors: short for `subspace` with `over: {kind: lora}`."""

    kind: Literal["sublora"]
    dimension: Dimension = 10000
    rank: Rank = 8
    scale: Scale = 16.0
    targets: SubspaceTargets = _TARGETS
    covers: Covers = _COVERS


@dataclass(frozen=True, config=STRICT)
class KroneckerSubspace:
    """A random subspace of Kronecker factors: short for `subspace` with `over: {kind: kronecker}`."""

    kind: Literal["kronecker_subspace"]
    dimension: Dimension = 10000
    terms: Terms = 1
    left_shapes: LeftShapes = Field(default_factory=dict)
    targets: SubspaceTargets = _TARGETS
    covers: Covers = _COVERS


Parameterization = Annotated[
    Dense | Lora | Kronecker | Monarch | Subspace | SubLora | KroneckerSubspace, Field(discriminator="kind")
]
