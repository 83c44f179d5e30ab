"""Rows of messages: how models become bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, Checked, Fault, PositiveInt, Reference
from tokenbounds.config.quantizers import LearningRate, Quantizer


@dataclass(frozen=True, config=STRICT)
class SmoothingHeadSpec:
    """A smoothing weight for each token, read off the last hidden state by a linear head that the message contains.

    The head is trained on the bound itself. Its weights are powers of two, from 1/2 down to 2^-`grid_size`.
    """

    bound: Annotated[
        Literal["azuma", "betting"], Field(description="The bound that the head is trained to lower; both may use it.")
    ] = "betting"
    tokens: Annotated[
        PositiveInt, Field(description="Tokens of the model's corpus to train it on, sampled at random.")
    ] = 65536
    steps: Annotated[PositiveInt, Field(description="Optimizer steps, each on all of these tokens.")] = 300
    learning_rate: LearningRate = 0.05
    grid_size: Annotated[
        int,
        Field(
            ge=1,
            le=16,
            description="Largest number of smoothing weights to choose from; training drops small ones "
            "that do not pay.",
        ),
    ] = 12
    seed: Annotated[int, Field(ge=0, description="Seed of that sample.")] = 0


@dataclass(frozen=True, config=STRICT)
class MessageSpec(Checked):
    """A message: which model, how its values are quantized, and which entropy coder writes the symbols."""

    model: Annotated[str, Reference("models"), Field(description="Model row to compress.")]
    quantizer: Annotated[Quantizer, Field(description="How its values become few distinct symbols.")]
    coder: Annotated[
        Literal["adaptive", "parallel", "static"],
        Field(
            description="Entropy coder: `adaptive` learns symbol frequencies while it codes, `parallel` does so in "
            "several streams, for models of billions of parameters, `static` sends a table."
        ),
    ] = "adaptive"
    smoothing_head: Annotated[
        SmoothingHeadSpec | None,
        Field(description="A smoothing weight for each token, for transformers; `null`: one for all tokens."),
    ] = None

    def faults(self) -> Iterator[Fault]:
        """Yield settings that the quantizer has no use for."""
        if self.quantizer.models == "fixed" and self.smoothing_head is not None:
            yield Fault("smoothing_head", "a reference contains only a hash. Leave it out.")
        if self.quantizer.models in ("chain", "online", "fixed") and self.coder == "parallel":
            yield Fault("coder", "only the tensors of a transformer are coded in parallel. Use adaptive.")
        if self.quantizer.needs().coarse is not None and self.coder != "adaptive":
            yield Fault("coder", "a refinement needs the coarse codes, and only the adaptive coder uses them.")
