"""Rows of calibrations: what a quantizer knows of a model beyond its values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt


@dataclass(frozen=True, config=STRICT)
class CalibrationSpec:
    """Second moments of the inputs, and mean squared gradients of the outputs, of all layers of a dense transformer.

    The corpus may be the one that is certified, in part or whole: a bound holds for every model, however it was
    chosen, because its message pays for the choice.
    """

    model: str
    corpus: str
    tokens: PositiveInt = 65536
    context: PositiveInt = 512
    seed: Annotated[int, Field(ge=0)] = 0
    batch_tokens: PositiveInt = 4096
    dtype: Literal["float32", "bfloat16"] = "float32"
