"""Rows of models: what is trained, loaded or counted before it is compressed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, Checked, Fault, PositiveInt, Reference
from tokenbounds.config.parameterizations import Dense, Lora, Parameterization, Tiny


@dataclass(frozen=True, config=STRICT)
class Architecture(Checked):
    """A decoder-only transformer of a family in the registry; the vocabulary comes from the corpus's tokenizer."""

    family: Annotated[
        Literal["gpt2", "llama", "mistral", "qwen2", "qwen3"], Field(description="Family of transformers models.")
    ] = "gpt2"
    layers: Annotated[PositiveInt, Field(description="Number of transformer blocks.")] = 4
    hidden: Annotated[PositiveInt, Field(description="Width of the residual stream; a multiple of `heads`.")] = 128
    heads: Annotated[PositiveInt, Field(description="Attention heads.")] = 4
    key_value_heads: Annotated[
        PositiveInt | None, Field(description="Heads of keys and values, if fewer (llama, mistral).")
    ] = None
    feed_forward: Annotated[
        PositiveInt | None,
        Field(description="Width of the feed-forward layers; `null`: the family's usual ratio."),
    ] = None
    context: Annotated[PositiveInt, Field(description="Longest window of tokens the model can see.")] = 256
    tied_embedding: Annotated[
        bool, Field(description="Whether input and output embedding are one matrix, coded once.")
    ] = True

    def faults(self) -> Iterator[Fault]:
        """Yield heads of unequal width."""
        if self.hidden % self.heads:
            yield Fault("", f"hidden {self.hidden} is not a multiple of heads.")


@dataclass(frozen=True, config=STRICT)
class Training:
    """How a model is trained: by steps, with AdamW and a warm-up followed by a cosine schedule."""

    steps: Annotated[PositiveInt, Field(description="Optimizer steps.")] = 1000
    batch_tokens: Annotated[PositiveInt, Field(description="Tokens in one step.")] = 8192
    learning_rate: Annotated[float, Field(gt=0, description="Peak learning rate.")] = 3e-3
    warmup_fraction: Annotated[
        float,
        Field(
            ge=0, lt=1, description="Share of the steps in which the learning rate rises; then it falls as a cosine."
        ),
    ] = 0.05
    weight_decay: Annotated[float, Field(ge=0, description="AdamW's weight decay.")] = 0.0
    seed: Annotated[int, Field(ge=0, description="Seed of the batches.")] = 0
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="Precision of forward and backward passes; values are kept in float32."),
    ] = "float32"
    gradient_checkpointing: Annotated[bool, Field(description="Compute activations twice to save memory.")] = False
    save_steps: Annotated[
        PositiveInt, Field(description="Steps between the checkpoints from which a killed job continues.")
    ] = 500


TrainingBudget = Annotated[Training, Field(description="Budget and optimizer.")]


@dataclass(frozen=True, config=STRICT)
class TrainedModel(Checked):
    """A transformer trained on `corpus`: from scratch, or from another row's values.

    `seed` determines the fixed part and the initial values of the trained part.
    """

    kind: Literal["trained"]
    corpus: Annotated[str, Reference("corpora"), Field(description="Corpus row to train on.")]
    architecture: Annotated[Architecture, Field(description="Shape of the transformer.")] = Field(
        default_factory=Architecture
    )
    parameterization: Annotated[Parameterization, Field(description="Which parameters are trained and coded.")] = Field(
        default_factory=lambda: Dense(kind="dense")
    )
    training: TrainingBudget = Field(default_factory=Training)
    start: Annotated[
        str | None,
        Reference("models"),
        Field(
            description="Model row of the same architecture whose values training starts from, copied into a "
            "dense model or projected to the nearest Kronecker or Monarch factors; `null`: random "
            "values."
        ),
    ] = None
    seed: Annotated[
        int, Field(ge=0, description="Seed of the fixed part, and of the initial values of the trained part.")
    ] = 0

    @property
    def is_dense(self) -> bool:
        """Whether the model is dense (each weight is a value of its own)."""
        return self.parameterization.kind == "dense"

    def faults(self) -> Iterator[Fault]:
        """Yield a parameterization whose random values a start would replace."""
        if self.start is not None and self.parameterization.kind not in ("dense", "kronecker", "monarch"):
            yield Fault(
                "start",
                f"a {self.parameterization.kind} model keeps its random values under what is trained. Start dense, "
                "kronecker and monarch models only.",
            )


@dataclass(frozen=True, config=STRICT)
class PretrainedModel(Checked):
    """A pretrained causal language model: a hub name or a folder, or a GGUF file in a folder or a Python package.

    `name` is a hub name or a folder; with `package`, the folder of that installed Python package, or `subfolder` in
    it. No code from the model is ever run.
    """

    kind: Literal["pretrained"]
    name: Annotated[str | None, Field(description="Hub name or folder. Give exactly one of `name` and `package`.")] = (
        None
    )
    package: Annotated[str | None, Field(description="Installed Python package whose folder holds the checkpoint.")] = (
        None
    )
    subfolder: Annotated[
        str | None,
        Field(
            description="Folder of the checkpoint inside `package`, e.g. `trained_models/IgLM-S` of `iglm`. A "
            "torch archive there is read as data; nothing in it is run."
        ),
    ] = None
    gguf_file: Annotated[str | None, Field(description="GGUF file inside the folder or package.")] = None
    revision: Annotated[
        str | None, Field(description="Branch, tag or commit on the hub; pin it for results that can be repeated.")
    ] = None
    start_id: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Field(
            description="The token before a document's first one; `null` takes the model's own first token, or its "
            "end token. IgLM's files name one that it does not have: give 31, `[HEAVY]`."
        ),
    ] = None

    @property
    def is_dense(self) -> bool:
        """Whether the model is dense (each weight is a value of its own)."""
        return True

    def faults(self) -> Iterator[Fault]:
        """Yield a checkpoint that is named twice or not at all, and a first token that must be given."""
        if (self.name is None) == (self.package is None):
            yield Fault("", "give exactly one of 'name' and 'package'.")
        if self.subfolder is not None and self.package is None:
            yield Fault("subfolder", "it is a folder inside a 'package'. Name the package.")
        if self.package == "iglm" and self.start_id is None:
            yield Fault("start_id", "IgLM's files name a first token that it does not have. Give 31, [HEAVY].")


@dataclass(frozen=True, config=STRICT)
class FinetunedModel:
    """A fixed `base` with low-rank adapters or a short vector that moves its layers; a message holds these alone.

    Only these are trained on `corpus`.
    `base` is a pretrained model, or a dense one trained on another corpus: it must not depend on the corpora that
    the fine-tuned model is certified on. Training starts from the base itself: one factor of each adapter is zero, the
    other random; the vector is zero.
    """

    kind: Literal["finetuned"]
    base: Annotated[
        str,
        Reference("models"),
        Field(description="Model row that stays as it is: pretrained, or trained densely on another corpus."),
    ]
    corpus: Annotated[
        str, Reference("corpora"), Field(description="Corpus row to train the adapters on, in the base's own tokens.")
    ]
    parameterization: Annotated[
        Lora | Tiny,
        Field(
            discriminator="kind",
            description="Shape of the adapters, of kind `lora` or `tiny`; default: rank 1 on attention and mlp.",
        ),
    ] = Field(default_factory=lambda: Lora(kind="lora", rank=1))
    training: TrainingBudget = Field(default_factory=Training)
    context: Annotated[PositiveInt, Field(description="Tokens in a training window.")] = 256
    seed: Annotated[
        int, Field(ge=0, description="Seed of the initial values of the factors A; the factors B start at zero.")
    ] = 0

    @property
    def is_dense(self) -> bool:
        """Whether the model is dense (each weight is a value of its own): no, its adapters modify a base."""
        return False


@dataclass(frozen=True, config=STRICT)
class MarkovModel:
    """A Markov chain of the stated order, counted on `corpus`."""

    kind: Literal["markov"]
    corpus: Annotated[str, Reference("corpora"), Field(description="Corpus row to count.")]
    order: Annotated[int, Field(ge=0, le=6, description="Number of preceding tokens that the next one depends on.")] = 1

    @property
    def is_dense(self) -> bool:
        """Whether the model is dense (each weight is a value of its own): no, it has counts."""
        return False


@dataclass(frozen=True, config=STRICT)
class OnlineModel(Checked):
    """A predictor that starts empty and learns along the corpus that it predicts: context mixing, or n-grams.

    Nothing in it depends on the corpus before the corpus is read, so its message is a header of a few bytes. Its
    certificates are about the running predictor, not about one frozen model. It serves as a yardstick, and in a chain
    it makes differences from it cheaper to bound.
    """

    kind: Literal["online"]
    predictor: Annotated[
        Literal["mixing", "ngrams"],
        Field(
            description="`mixing`: bytes only; nine contexts and the longest repetition of what was just read, mixed "
            "bit by bit. `ngrams`: any vocabulary; what followed the last few tokens, six times as fast."
        ),
    ] = "mixing"
    table_bits: Annotated[
        int,
        Field(
            ge=12,
            le=26,
            description="log2 of the entries of each table, 4 bytes per entry; 22 takes 150 MB for the 9 tables of "
            "`mixing`, 17 MB for each length of context of `ngrams`.",
        ),
    ] = 22
    order: Annotated[
        int | None, Field(ge=1, le=8, description="Tokens in the longest context of `ngrams`; `null`: 6.")
    ] = None
    vocabulary_size: Annotated[
        int,
        Field(
            ge=2, le=1 << 20, description="Number of tokens that `ngrams` chooses from: the tokenizer's, 256 for bytes."
        ),
    ] = 256

    def faults(self) -> Iterator[Fault]:
        """Yield keys of n-grams that context mixing cannot have."""
        if self.predictor == "mixing" and self.order is not None:
            yield Fault("order", "context mixing has no single order. Leave it out, or choose predictor: ngrams.")
        if self.predictor == "mixing" and self.vocabulary_size != 256:
            yield Fault("vocabulary_size", "context mixing predicts bytes. Leave it out, or choose predictor: ngrams.")

    @property
    def is_dense(self) -> bool:
        """Whether the model is dense (each weight is a value of its own): no, it has none."""
        return False


ModelSpec = Annotated[
    TrainedModel | PretrainedModel | FinetunedModel | MarkovModel | OnlineModel, Field(discriminator="kind")
]
