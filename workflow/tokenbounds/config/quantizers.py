"""Quantizers of trained models that need no further training: their steps, their calibration and their target."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt, Reference

Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=16)]

Steps = Annotated[
    Literal["row", "tensor"], Field(description="One step for each row of a matrix, or one for the whole of it.")
]
EmbeddingRate = Annotated[
    Rate | None, Field(description="Bits a value of embeddings and head; `null`: the layers' scale.")
]
CalibrationName = Annotated[str, Reference("calibrations"), Field(description="Calibration row of the model.")]
Damping = Annotated[Positive, Field(description="Added to the diagonals of second moments, as a share of their mean.")]


@dataclass(frozen=True, config=STRICT)
class Target:
    """How fine a quantizer's steps are: exactly one of the first four keys.

    Rates and sizes are met to within 1 % by real encodings. `bound: best` searches, by encodings that are scored on
    `pilot_tokens` of `corpus`, for the steps whose betting bound on bits per token is least for that corpus.
    """

    bits_per_weight: Annotated[
        Rate | None, Field(description="Bits a weight of the linear layers, their steps included; any fraction.")
    ] = None
    message_megabits: Annotated[Positive | None, Field(description="Size of the whole message, in 10^6 bits.")] = None
    scale: Annotated[
        Positive | None,
        Field(
            description="The common factor of all steps itself, taken from another message's report; no search is made."
        ),
    ] = None
    bound: Annotated[Literal["best"] | None, Field(description="Search for the steps that give the best bound.")] = None
    corpus: Annotated[
        str | None,
        Reference("corpora"),
        Field(description="With `bound`: the corpus row that the message is to be certified for."),
    ] = None
    pilot_tokens: Annotated[PositiveInt, Field(description="With `bound`: tokens that each trial is scored on.")] = (
        16384
    )
    seed: Annotated[
        int, Field(ge=0, description="With `bound`: draws these tokens; another seed than the evaluation's.")
    ] = 1

    @property
    def stated(self) -> int:
        """Number of keys that say how fine steps are."""
        return sum(value is not None for value in (self.bits_per_weight, self.message_megabits, self.scale, self.bound))


StepTarget = Annotated[Target, Field(description="How fine the steps are.")]


@dataclass(frozen=True, config=STRICT)
class RtnQuantizer:
    """Round to nearest: each row (or tensor) has a step, the same share of its root mean square everywhere."""

    kind: Literal["rtn"]
    target: StepTarget
    steps: Steps = "row"
    embedding_bits_per_weight: EmbeddingRate = None


@dataclass(frozen=True, config=STRICT)
class GptqQuantizer:
    """Steps as in `rtn`; columns are rounded one after the other, each correcting the errors before it (GPTQ, LDLQ)."""

    kind: Literal["gptq"]
    calibration: CalibrationName
    target: StepTarget
    steps: Steps = "row"
    damping: Damping = 1e-2
    embedding_bits_per_weight: EmbeddingRate = None


@dataclass(frozen=True, config=STRICT)
class QuipQuantizer:
    """QuIP: linear layers between seeded random rotations that make all values alike, rounded as in `gptq`.

    Embeddings are not rotated and are rounded as in `rtn`.
    """

    kind: Literal["quip"]
    calibration: CalibrationName
    target: StepTarget
    seed: Annotated[int, Field(ge=0, description="Draws the rotations.")] = 0
    damping: Damping = 1e-2
    embedding_bits_per_weight: EmbeddingRate = None


@dataclass(frozen=True, config=STRICT)
class QuipSharpQuantizer:
    """QuIP#: linear layers randomly rotated, then rounded to points of the E8 lattice; 2 bits a weight, 3 or 4.

    Embeddings and head are rounded to nearest. Without a calibration there is no error feedback.
    """

    kind: Literal["quip_sharp"]
    calibration: Annotated[
        str | None, Reference("calibrations"), Field(description="Calibration row of the model.")
    ] = None
    bits: Annotated[
        Literal[2, 3, 4],
        Field(description="Bits of a weight before coding: E8P at 2, with the ball of E8 at 3, E8P twice at 4."),
    ] = 2
    seed: Annotated[
        int, Field(ge=0, lt=1 << 64, description="Draws the signs of the rotations; the message holds it.")
    ] = 0
    damping: Damping = 1e-2
    embedding_bits_per_weight: Annotated[
        Rate, Field(description="Bits that a value of embedding and head takes, coded.")
    ] = 4.0


@dataclass(frozen=True, config=STRICT)
class PublishedQuantizer:
    """The codes of a checkpoint that is quantized already (QuIP#), as they are; nothing is rounded or lost."""

    kind: Literal["published"]


@dataclass(frozen=True, config=STRICT)
class WatersicQuantizer:
    """The best for pretrained models: steps by sensitivity of rows and columns, one scale for the whole model.

    The step of row r and column k is scale / √(g_r · D_k): g_r is the mean squared gradient of the loss at output r,
    D_k what the inputs before k do not explain of input k. Columns are rounded with error feedback, the codes of each
    so that error + `rate_weight` × bits is least along a trellis.
    """

    kind: Literal["watersic"]
    calibration: CalibrationName
    target: StepTarget
    damping: Damping = 1e-3
    rate_weight: Annotated[
        float,
        Field(
            ge=0,
            description="What a bit is worth in squared steps when a code is chosen; 0 rounds to the nearest, "
            "without a trellis.",
        ),
    ] = 0.12
    trellis: Annotated[
        Literal[8, 32] | None,
        Field(
            description="States of a trellis that chooses an input's codes together: fewer bits at equal loss, "
            "slower. `null`: each code on its own, which is better with the static coder below two "
            "bits."
        ),
    ] = 8
    embedding_bits_per_weight: EmbeddingRate = None
