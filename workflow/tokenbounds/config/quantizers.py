"""Quantizers of trained models that need no further training: their steps, their calibration and their target."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt

Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=16)]


@dataclass(frozen=True, config=STRICT)
class Target:
    """How fine a quantizer's steps are: exactly one of the first four keys.

    Rates and sizes are met to within 1 % by real encodings. `bound: best` searches, by encodings that are scored on
    `pilot_tokens` of `corpus`, for the steps whose betting bound on bits per token is least for that corpus.
    """

    bits_per_weight: Rate | None = None
    message_megabits: Positive | None = None
    scale: Positive | None = None
    bound: Literal["best"] | None = None
    corpus: str | None = None
    pilot_tokens: PositiveInt = 16384
    seed: Annotated[int, Field(ge=0)] = 1

    @property
    def stated(self) -> int:
        """Number of keys that say how fine steps are."""
        return sum(value is not None for value in (self.bits_per_weight, self.message_megabits, self.scale, self.bound))


@dataclass(frozen=True, config=STRICT)
class RtnQuantizer:
    """Round to nearest: each row (or tensor) has a step, the same share of its root mean square everywhere."""

    kind: Literal["rtn"]
    target: Target
    steps: Literal["row", "tensor"] = "row"
    embedding_bits_per_weight: Rate | None = None


@dataclass(frozen=True, config=STRICT)
class GptqQuantizer:
    """Steps as in `rtn`; columns are rounded one after the other, each correcting the errors before it (GPTQ, LDLQ)."""

    kind: Literal["gptq"]
    calibration: str
    target: Target
    steps: Literal["row", "tensor"] = "row"
    damping: Positive = 1e-2
    embedding_bits_per_weight: Rate | None = None


@dataclass(frozen=True, config=STRICT)
class QuipQuantizer:
    """QuIP: linear layers between seeded random rotations that make all values alike, rounded as in `gptq`.

    Embeddings are not rotated and are rounded as in `rtn`.
    """

    kind: Literal["quip"]
    calibration: str
    target: Target
    seed: Annotated[int, Field(ge=0)] = 0
    damping: Positive = 1e-2
    embedding_bits_per_weight: Rate | None = None


@dataclass(frozen=True, config=STRICT)
class QuipSharpQuantizer:
    """QuIP#: linear layers randomly rotated, then rounded to points of the E8 lattice; 2 bits a weight, 3 or 4.

    Embeddings and head are rounded to nearest. Without a calibration there is no error feedback.
    """

    kind: Literal["quip_sharp"]
    calibration: str | None = None
    bits: Literal[2, 3, 4] = 2
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    damping: Positive = 1e-2
    embedding_bits_per_weight: Rate = 4.0


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
    calibration: str
    target: Target
    damping: Positive = 1e-3
    rate_weight: Annotated[float, Field(ge=0)] = 0.12
    trellis: Literal[8, 32] | None = 8
    embedding_bits_per_weight: Rate | None = None
