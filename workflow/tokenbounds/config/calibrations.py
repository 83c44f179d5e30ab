"""Rows of calibrations: what a quantizer knows about a model beyond its values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt, Reference


@dataclass(frozen=True, config=STRICT)
class CalibrationSpec:
    """Second moments of the inputs, and mean squared gradients of the outputs, of all layers of a dense transformer.

    The corpus may be the one that is certified, or part of it: a bound holds for every model, however it was chosen,
    because its message pays for the choice.
    """

    model: Annotated[
        str, Reference("models"), Field(description="Model row to calibrate: transformers, `dense` parameterization.")
    ]
    corpus: Annotated[
        str, Reference("corpora"), Field(description="Corpus row, tokenized with the model's own tokenizer.")
    ]
    tokens: Annotated[
        PositiveInt,
        Field(description="Number of tokens, from documents drawn without replacement; all if there are fewer."),
    ] = 65536
    sensitivity_tokens: Annotated[
        PositiveInt | None,
        Field(
            description="Of these, how many also go backwards, for the gradients of outputs, which need fewer than "
            "the second moments of inputs; `null`: all."
        ),
    ] = None
    context: Annotated[
        PositiveInt, Field(description="Tokens in a window, at most what the model can see. Documents are packed.")
    ] = 512
    seed: Annotated[int, Field(ge=0, description="Seed of the choice of documents.")] = 0
    batch_tokens: Annotated[
        PositiveInt, Field(description="Tokens that pass through a block at once. This affects only speed and memory.")
    ] = 4096
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="Precision of the computation; `bfloat16` is faster on GPUs and on CPUs with AMX."),
    ] = "float32"
