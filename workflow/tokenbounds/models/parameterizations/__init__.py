"""Parameterizations: how a model's weights follow from what a message codes.

Each kind has its fields here, and a module of its own with `apply(model, settings, roles)`, which replaces layers so
that only the coded values remain parameters; the fixed part is in buffers. Modules are imported when used, so that
reading a card needs no torch. To add a kind: one entry here, one module next to this one; if its layers are made of
factors, a subclass of `layers.FactoredLayer`.

A configuration has more names than a card has kinds: `card_parameterization` says what `sublora` and
`kronecker_subspace` are short for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tokenbounds.errors import ModelError
from tokenbounds.models.families import ROLES
from tokenbounds.models.fields import Field, Integer, Real, Shapes, Subset, check_values, without_defaults

if TYPE_CHECKING:
    from torch import Tensor, nn

COVERED = (*ROLES, "norms")

_TARGETS = Subset(("attention", "mlp"), ROLES)


class _Inner:
    """What a subspace covers: a parameterization that is not a subspace itself."""

    @property
    def default(self) -> dict[str, Any]:
        """The plain model's parameters."""
        return {"kind": "dense"}

    def check(self, value: Any, where: str) -> dict[str, Any]:
        """Refuse subspaces of subspaces, adapters, and what is not a parameterization."""
        if isinstance(value, Mapping) and value.get("kind") == "subspace":
            raise ModelError(f"{where}.kind is 'subspace'; a subspace of a subspace is just a smaller subspace.")
        if isinstance(value, Mapping) and value.get("kind") == "tiny":
            raise ModelError(f"{where}.kind is 'tiny', which moves a base and nothing else.")
        return check_parameterization(value)


KINDS: dict[str, dict[str, Field]] = {
    "dense": {},
    "lora": {
        "rank": Integer(8, 1, 1 << 16),
        "scale": Real(16.0, 1e-9, 1e9),
        "targets": _TARGETS,
        "last_layers": Integer(None, 1, 1 << 12),
    },
    # Over a base alone: a model that is trained from scratch has no use for so few numbers.
    "tiny": {
        "dimension": Integer(16, 1, 256),
        "rank": Integer(2, 1, 16),
        "scale": Real(1.0, 1e-9, 1e9),
        "targets": _TARGETS,
        "last_layers": Integer(None, 1, 1 << 12),
        "seed": Integer(0, 0, (1 << 63) - 1),
    },
    "kronecker": {"terms": Integer(1, 1, 1 << 12), "left_shapes": Shapes(ROLES, 1 << 24), "targets": _TARGETS},
    "monarch": {"blocks": Integer(4, 1, 1 << 16), "targets": _TARGETS},
    "subspace": {"dimension": Integer(10000, 1, 1 << 32), "over": _Inner(), "covers": Subset(COVERED, COVERED)},
}


@runtime_checkable
class DenseWeight(Protocol):
    """A layer that replaces a linear layer or embedding and can give its weight as one tensor."""

    def dense_weight(self) -> Tensor:
        """The weight, float[outputs, inputs]."""


def check_parameterization(raw: Any) -> dict[str, Any]:
    """Check a parameterization and fill in its defaults; a missing kind means dense.

    Raises
    ------
    ModelError
        If the kind is unknown or a setting breaks its bounds.
    """
    if not isinstance(raw, Mapping):
        raise ModelError("parameterization must be a mapping with a key 'kind'.")
    kind = raw.get("kind", "dense")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ModelError(f"parameterization.kind is {kind!r:.80}; it must be one of {', '.join(KINDS)}.")
    settings = {key: value for key, value in raw.items() if key != "kind"}
    return {"kind": kind, **check_values(KINDS[kind], settings, "parameterization")}


def compact_parameterization(checked: Mapping[str, Any]) -> dict[str, Any]:
    """The shortest mapping that `check_parameterization` reads as `checked`; empty for dense."""
    kind = checked["kind"]
    settings = {key: value for key, value in checked.items() if key not in ("kind", "over")}
    compact = without_defaults(KINDS[kind], settings)
    if over := compact_parameterization(checked["over"]) if "over" in checked else {}:
        compact["over"] = over
    return compact if kind == "dense" else {"kind": kind, **compact}


def card_parameterization(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says for a configuration's row, given as a mapping: combinations are written out as subspaces.

    Keys that matter only in training are left out.
    """
    row = {key: value for key, value in row.items() if key != "initialization"}
    if row["kind"] == "subspace":
        return {**row, "over": card_parameterization(row["over"])}
    over = {"sublora": "lora", "kronecker_subspace": "kronecker"}.get(row["kind"])
    if over is None:
        return row
    inner = {key: value for key, value in row.items() if key in KINDS[over]}
    return {"kind": "subspace", "over": {"kind": over, **inner}, "dimension": row["dimension"], "covers": row["covers"]}


def apply_parameterization(
    model: nn.Module, parameterization: Mapping[str, Any], role: Callable[[str], str | None]
) -> None:
    """Replace the layers of `model`, in place, as a checked parameterization says; `role` maps module names."""
    module = importlib.import_module(f"{__name__}.{parameterization['kind']}")
    module.apply(model, parameterization, role)
