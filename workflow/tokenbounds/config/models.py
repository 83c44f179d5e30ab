"""Rows of models: what is trained, loaded or counted before it is compressed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, PositiveInt
from tokenbounds.config.parameterizations import Dense, Lora, Parameterization


@dataclass(frozen=True, config=STRICT)
class Architecture:
    """A decoder-only transformer of a family in the registry; the vocabulary comes from the corpus's tokenizer."""

    family: Literal["gpt2", "llama", "mistral", "qwen2", "qwen3"] = "gpt2"
    layers: PositiveInt = 4
    hidden: PositiveInt = 128
    heads: PositiveInt = 4
    key_value_heads: PositiveInt | None = None
    feed_forward: PositiveInt | None = None
    context: PositiveInt = 256
    tied_embedding: bool = True


@dataclass(frozen=True, config=STRICT)
class Training:
    """How a model is trained: by steps, with AdamW and a warm-up then cosine schedule."""

    steps: PositiveInt = 1000
    batch_tokens: PositiveInt = 8192
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    save_steps: PositiveInt = 500


@dataclass(frozen=True, config=STRICT)
class TrainedModel:
    """A transformer trained on `corpus`: from scratch, or from another row's values.

    `seed` draws the fixed part and the initial trained part.
    """

    kind: Literal["trained"]
    corpus: str
    architecture: Architecture = Field(default_factory=Architecture)
    parameterization: Parameterization = Field(default_factory=lambda: Dense(kind="dense"))
    training: Training = Field(default_factory=Training)
    start: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=STRICT)
class PretrainedModel:
    """A pretrained causal language model: a hub name or a folder, or a GGUF file in a folder or a Python package.

    `name` is a hub name or a folder; with `package`, the folder of that installed Python package, or `subfolder` in
    it. No code from the model is ever run.
    """

    kind: Literal["pretrained"]
    name: str | None = None
    package: str | None = None
    subfolder: str | None = None
    gguf_file: str | None = None
    revision: str | None = None


@dataclass(frozen=True, config=STRICT)
class FinetunedModel:
    """A fixed `base` with low-rank adapters that are trained on `corpus`; a message holds the adapters only.

    `base` is a pretrained model, or a dense one trained on another corpus: it must not depend on the corpora that
    the fine-tuned model is certified on. Training starts from the base itself; `seed` draws one adapter factor.
    """

    kind: Literal["finetuned"]
    base: str
    corpus: str
    parameterization: Lora = Field(default_factory=lambda: Lora(kind="lora", rank=1))
    training: Training = Field(default_factory=Training)
    context: PositiveInt = 256
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=STRICT)
class MarkovModel:
    """A Markov chain of the given order, its counts taken from `corpus`."""

    kind: Literal["markov"]
    corpus: str
    order: Annotated[int, Field(ge=0, le=6)] = 1


ModelSpec = Annotated[TrainedModel | PretrainedModel | FinetunedModel | MarkovModel, Field(discriminator="kind")]
