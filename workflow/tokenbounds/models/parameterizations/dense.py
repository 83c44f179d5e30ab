"""The plain parameterization: every parameter is coded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


def apply(model: nn.Module, settings: Mapping[str, Any], role: Callable[[str], str | None]) -> None:
    """Leave `model` unchanged."""
