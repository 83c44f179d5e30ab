"""Rows of messages: how models become bits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt
from tokenbounds.config.quantizers import (
    GptqQuantizer,
    PublishedQuantizer,
    QuipQuantizer,
    QuipSharpQuantizer,
    RtnQuantizer,
    WatersicQuantizer,
)


@dataclass(frozen=True, config=STRICT)
class Finetuning:
    """Straight-through training of quantized weights (and codebooks) before they are coded."""

    steps: Annotated[int, Field(ge=0)] = 0
    batch_tokens: PositiveInt = 8192
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    rate_weight: Annotated[float, Field(ge=0)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, config=STRICT)
class CodebookQuantizer:
    """Each tensor's values are replaced by the nearest of `levels` learned values (k-means, then fine-tuning)."""

    kind: Literal["codebook"]
    levels: Annotated[int, Field(ge=2, le=256)] = 16
    finetuning: Finetuning = Field(default_factory=Finetuning)


@dataclass(frozen=True, config=STRICT)
class UniformQuantizer:
    """Each tensor's values are rounded to multiples of a step: `step_ratio` × its root mean square."""

    kind: Literal["uniform"]
    step_ratio: Annotated[float, Field(gt=0)] = 0.5
    finetuning: Finetuning = Field(default_factory=Finetuning)


@dataclass(frozen=True, config=STRICT)
class CountsQuantizer:
    """For Markov models: counts on a logarithmic scale with `levels` steps, rare contexts left to lower orders."""

    kind: Literal["counts"]
    levels: Annotated[int, Field(ge=2, le=64)] = 16
    threshold: PositiveInt = 2


@dataclass(frozen=True, config=STRICT)
class ReferenceQuantizer:
    """No values at all: the message names a model, fixed before the corpus, by hash, and decodes to it as it is."""

    kind: Literal["reference"]


@dataclass(frozen=True, config=STRICT)
class RefinementQuantizer:
    """The codes of a coarse message `of` the same model, refined: each step is divided into `factor` finer ones.

    Only the finer digits are coded, given the coarse codes. Decoding needs the coarse message, named by hash; both
    are paid for, and by a chain that holds both, once.
    """

    kind: Literal["refinement"]
    of: str
    factor: Annotated[int, Field(ge=2, le=256)] = 3


Quantizer = Annotated[
    CodebookQuantizer
    | UniformQuantizer
    | CountsQuantizer
    | RtnQuantizer
    | GptqQuantizer
    | QuipQuantizer
    | WatersicQuantizer
    | ReferenceQuantizer
    | RefinementQuantizer
    | QuipSharpQuantizer
    | PublishedQuantizer,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, config=STRICT)
class SmoothingHeadSpec:
    """A smoothing weight for each token, read off the last hidden state by a linear head that the message holds.

    The head is trained on the bound itself. Its weights are powers of two, 1/2 and down to 2^-`levels` at the least.
    """

    bound: Literal["azuma", "betting"] = "betting"
    tokens: PositiveInt = 65536
    steps: PositiveInt = 300
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    levels: Annotated[int, Field(ge=1, le=16)] = 12
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=STRICT)
class MessageSpec:
    """A message: which model, how its values are quantized, and which entropy coder writes the symbols."""

    model: str
    quantizer: Quantizer
    coder: Literal["adaptive", "static"] = "adaptive"
    smoothing_head: SmoothingHeadSpec | None = None
