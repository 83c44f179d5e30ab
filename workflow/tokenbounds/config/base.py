"""What the types of a configuration share: strictness and ranges of values."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=False)

PositiveInt = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Coefficient = Annotated[float, Field(gt=0, le=1)]
