"""Parameterizations: how a model's weights follow from what a message codes.

Each kind has its fields here, and a module of its own with `apply(model, settings, roles)`, which replaces layers so
that exactly the coded values remain parameters; the fixed part lives in buffers. Modules are imported when used, so
that reading a card needs no torch. To add a kind: one entry here, one module beside.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tokenbounds.errors import ModelError
from tokenbounds.models.families import ROLES
from tokenbounds.models.fields import Field, Integer, Real, Subset, check_values, without_defaults

if TYPE_CHECKING:
    from torch import Tensor, nn

KINDS: dict[str, dict[str, Field]] = {
    "dense": {},
    "lora": {
        "rank": Integer(8, 1, 1 << 16),
        "scale": Real(16.0, 1e-9, 1e9),
        "targets": Subset(("attention", "mlp"), ROLES),
    },
}


@runtime_checkable
class DenseWeight(Protocol):
    """A layer that stands for a linear layer or embedding and can give its weight as one tensor."""

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
    settings = {key: value for key, value in checked.items() if key != "kind"}
    compact = without_defaults(KINDS[kind], settings)
    return compact if kind == "dense" else {"kind": kind, **compact}


def apply_parameterization(
    model: nn.Module, parameterization: Mapping[str, Any], role: Callable[[str], str | None]
) -> None:
    """Replace the layers of `model`, in place, as a checked parameterization says; `role` maps module names."""
    module = importlib.import_module(f"{__name__}.{parameterization['kind']}")
    module.apply(model, parameterization, role)
