"""Rows of messages: how models become bits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt, Reference
from tokenbounds.config.quantizers import (
    GptqQuantizer,
    PublishedQuantizer,
    QuipQuantizer,
    QuipSharpQuantizer,
    RtnQuantizer,
    WatersicQuantizer,
)

LearningRate = Annotated[float, Field(gt=0, description="Peak learning rate.")]


@dataclass(frozen=True, config=STRICT)
class Finetuning:
    """Straight-through training of quantized weights (and codebooks) before they are coded."""

    steps: Annotated[int, Field(ge=0, description="Optimizer steps; 0 quantizes once and leaves it at that.")] = 0
    batch_tokens: Annotated[PositiveInt, Field(description="Tokens in one step.")] = 8192
    learning_rate: LearningRate = 1e-3
    rate_weight: Annotated[float, Field(ge=0, description="Weight of the message's size in the training loss.")] = 0.0
    seed: Annotated[int, Field(ge=0, description="Draws the batches.")] = 0
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="Precision of forward and backward passes; values are kept in float32."),
    ] = "float32"


@dataclass(frozen=True, config=STRICT)
class CodebookQuantizer:
    """Each tensor's values are replaced by the nearest of `levels` learned values (k-means, then fine-tuning)."""

    kind: Literal["codebook"]
    levels: Annotated[int, Field(ge=2, le=256, description="Number of values in each tensor's codebook.")] = 16
    finetuning: Annotated[Finetuning, Field(description="Further training of codes and codebooks.")] = Field(
        default_factory=Finetuning
    )


@dataclass(frozen=True, config=STRICT)
class UniformQuantizer:
    """Each tensor's values are rounded to multiples of a step: `step_ratio` × its root mean square."""

    kind: Literal["uniform"]
    step_ratio: Annotated[
        float, Field(gt=0, description="Step between values, as a share of the tensor's root mean square.")
    ] = 0.5
    finetuning: Annotated[Finetuning, Field(description="Further training of quantized values.")] = Field(
        default_factory=Finetuning
    )


@dataclass(frozen=True, config=STRICT)
class CountsQuantizer:
    """For Markov models: counts on a logarithmic scale with `levels` steps, rare contexts left to lower orders."""

    kind: Literal["counts"]
    levels: Annotated[int, Field(ge=2, le=64, description="Steps of the logarithmic scale of counts.")] = 16
    threshold: Annotated[PositiveInt, Field(description="Smallest count that is coded.")] = 2


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
    of: Annotated[
        str,
        Reference("messages"),
        Field(description="Message row, of kind `uniform` and of the same model, whose codes are refined."),
    ]
    factor: Annotated[
        int,
        Field(
            ge=2,
            le=256,
            description="Fine steps in a coarse one. An odd factor codes no value in two ways, and so costs less.",
        ),
    ] = 3


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

    bound: Annotated[
        Literal["azuma", "betting"], Field(description="The bound that the head is trained to lower; both may use it.")
    ] = "betting"
    tokens: Annotated[
        PositiveInt, Field(description="Tokens of the model's corpus to train it on, drawn at random.")
    ] = 65536
    steps: Annotated[PositiveInt, Field(description="Optimizer steps, each on all of these tokens.")] = 300
    learning_rate: LearningRate = 0.05
    levels: Annotated[
        int,
        Field(
            ge=1,
            le=16,
            description="Number of smoothing weights that a token may have, at most; training drops small ones "
            "that do not pay.",
        ),
    ] = 12
    seed: Annotated[int, Field(ge=0, description="Draws the tokens.")] = 0


@dataclass(frozen=True, config=STRICT)
class MessageSpec:
    """A message: which model, how its values are quantized, and which entropy coder writes the symbols."""

    model: Annotated[str, Reference("models"), Field(description="Model row to compress.")]
    quantizer: Annotated[Quantizer, Field(description="How its values become few distinct symbols.")]
    coder: Annotated[
        Literal["adaptive", "static"],
        Field(
            description="Entropy coder: `adaptive` learns symbol frequencies while it codes, `static` sends a table."
        ),
    ] = "adaptive"
    smoothing_head: Annotated[
        SmoothingHeadSpec | None,
        Field(description="A smoothing weight for each token, for transformers; `null`: one for all tokens."),
    ] = None
