"""Quantizers: one type of row per kind, which says what it is for, what it needs, and what people call it.

Nothing else in the library asks what kind a quantizer is: checks, the graph and tables read `models`, `title` and
`needs()` of the row. How a row becomes codes is in `compression/methods/`, how codes become bytes in
`messages/formats/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal, get_args, get_type_hints

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, Checked, Fault, PositiveInt, Reference

Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=16)]
Steps = Annotated[
    Literal["row", "tensor"], Field(description="One step for each row of a matrix, or one for all of it.")
]
EmbeddingRate = Annotated[
    Rate | None, Field(description="Bits per value of embeddings and head; `null`: the layers' scale.")
]
CalibrationName = Annotated[str, Reference("calibrations"), Field(description="Calibration row of the model.")]
Damping = Annotated[Positive, Field(description="Added to the diagonals of second moments, as a share of their mean.")]
LearningRate = Annotated[float, Field(gt=0, description="Peak learning rate.")]

NOT_QUANTIZED = "not quantized"

# Which models a quantizer is for: any transformer, adapters included; one in which each weight is a value of its own;
# one that was imported; one that a hash can name, because its values depend on no corpus of the study; a Markov chain;
# an online reference.
Models = Literal["transformer", "dense", "imported", "fixed", "chain", "online"]


@dataclass(frozen=True, config=STRICT)
class Target(Checked):
    """How fine a quantizer's steps are: exactly one of the first four keys.

    Rates and sizes are met to within 1 % by real encodings. `bound: best` searches, by encodings that are scored on
    `pilot_tokens` of `corpus`, for the steps whose betting bound on bits per token is least for that corpus.
    """

    bits_per_weight: Annotated[
        Rate | None, Field(description="Bits per weight of the linear layers, their steps included; any fraction.")
    ] = None
    message_megabits: Annotated[Positive | None, Field(description="Size of the whole message, in 10^6 bits.")] = None
    scale: Annotated[
        Positive | None,
        Field(description="The common factor of all steps, taken from another message's report; no search."),
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
        int, Field(ge=0, description="With `bound`: seed of these tokens. Choose another than the evaluation's.")
    ] = 1

    def faults(self) -> Iterator[Fault]:
        """Yield a target that is stated twice or not at all, and a search without its corpus."""
        stated = (self.bits_per_weight, self.message_megabits, self.scale, self.bound)
        if sum(value is not None for value in stated) != 1:
            yield Fault("", "give exactly one of bits_per_weight, message_megabits, scale, bound.")
        if (self.bound is None) != (self.corpus is None):
            yield Fault("", "'bound' and 'corpus' belong together. Give both or neither.")


StepTarget = Annotated[Target, Field(description="How fine the steps are.")]


@dataclass(frozen=True, config=STRICT)
class StraightThrough:
    """Straight-through training of quantized weights (and codebooks) before they are coded."""

    steps: Annotated[int, Field(ge=0, description="Optimizer steps; 0: no training.")] = 0
    batch_tokens: Annotated[PositiveInt, Field(description="Tokens in one step.")] = 8192
    learning_rate: LearningRate = 1e-3
    rate_weight: Annotated[float, Field(ge=0, description="Weight of the message's size in the training loss.")] = 0.0
    seed: Annotated[int, Field(ge=0, description="Seed of the batches.")] = 0
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="Precision of forward and backward passes; values are kept in float32."),
    ] = "float32"


@dataclass(frozen=True, config=STRICT)
class Tuning:
    """Steps, norms and biases of a quantized model, tuned to predict what the original does; codes stay as they are.

    The loss is the KL divergence from the original on the calibration's windows, of which every sixteenth is kept for
    judging: what does not bring the predictions closer there is not kept. The model must fit in memory twice.
    """

    passes: Annotated[PositiveInt, Field(description="How often the windows that are trained on are gone through.")] = 2
    tokens: Annotated[
        PositiveInt | None,
        Field(
            description="How many of the calibration's tokens are trained on, rounded down to whole windows; `null`: "
            "all but those that judge."
        ),
    ] = None
    batch_tokens: Annotated[PositiveInt, Field(description="Tokens in one step, rounded down to whole windows.")] = 1024
    learning_rate: Annotated[
        float, Field(gt=0, description="Peak learning rate of steps, in octaves; norms and biases learn at half of it.")
    ] = 5e-3
    seed: Annotated[int, Field(ge=0, description="Seed of the order of the windows.")] = 0
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="Precision of products with codes; `bfloat16` is faster where hardware has it."),
    ] = "float32"


@dataclass(frozen=True, config=STRICT)
class Drift:
    """Layers rounded one after the other, each for the inputs that the quantized layers before it give.

    A layer's weight is corrected, before it is rounded, for what differs from the original in its inputs and, where its
    output is added to the residual stream, in that stream; as far as windows confirm what others say. Both models are
    held one block at a time.
    """

    tokens: Annotated[
        PositiveInt | None, Field(description="How many of the calibration's tokens are run; `null`: all.")
    ] = None
    batch_tokens: Annotated[
        PositiveInt, Field(description="Tokens that pass through a block at once. This affects only speed and memory.")
    ] = 4096
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="Precision of the computation; `bfloat16` is faster where hardware has it."),
    ] = "float32"


@plain_dataclass(frozen=True)
class Needs:
    """What an encoding by a row reads besides the model.

    Attributes
    ----------
    calibration
        A row of the study's calibrations.
    coarse
        A row of its messages, which is refined.
    training_steps
        Steps on the model's own training corpus.
    target
        How fine steps are; it may name a corpus too.
    """

    calibration: str | None = None
    coarse: str | None = None
    training_steps: int = 0
    target: Target | None = None


class QuantizerRow:
    """What every quantizer's row says about its kind.

    Attributes
    ----------
    models
        The models that it is for.
    title
        What people call it; None if they use its kind.
    refinable, refines
        Whether a message by it can be refined, and whether it refines one; the header of such a message has its kind.
    """

    kind: str
    models: ClassVar[Models] = "transformer"
    title: ClassVar[str | None] = None
    refinable: ClassVar[bool] = False
    refines: ClassVar[bool] = False

    def needs(self) -> Needs:
        """What an encoding reads besides the model: nothing, unless a kind says otherwise."""
        return Needs()


@dataclass(frozen=True, config=STRICT)
class CodebookQuantizer(QuantizerRow):
    """Each tensor's values are replaced by the nearest of `levels` learned values (k-means, then training)."""

    kind: Literal["codebook"]
    levels: Annotated[int, Field(ge=2, le=256, description="Number of values in each tensor's codebook.")] = 16
    straight_through: Annotated[StraightThrough, Field(description="Further training of codes and codebooks.")] = Field(
        default_factory=StraightThrough
    )

    def needs(self) -> Needs:
        """A corpus, if it is trained."""
        return Needs(training_steps=self.straight_through.steps)


@dataclass(frozen=True, config=STRICT)
class UniformQuantizer(QuantizerRow, Checked):
    """Each tensor's values are rounded to multiples of a step: `step_ratio` × its root mean square."""

    kind: Literal["uniform"]
    step_ratio: Annotated[
        float, Field(gt=0, description="Step between values, as a share of the tensor's root mean square.")
    ] = 0.5
    sensitivity_tokens: Annotated[
        PositiveInt | None,
        Field(
            description="With straight-through training: on how many tokens of its corpus it is measured how much the "
            "loss depends on each value. Tensors that matter more start with finer steps; `step_ratio` is then the "
            "geometric mean over all values. `null`: the same ratio for all matrices, an eighth of it for vectors."
        ),
    ] = None
    drop_values: Annotated[
        bool,
        Field(
            description="With `sensitivity_tokens`: training starts without the values that add less to the loss than "
            "their bits cost at its `rate_weight`."
        ),
    ] = False
    straight_through: Annotated[StraightThrough, Field(description="Further training of quantized values.")] = Field(
        default_factory=StraightThrough
    )
    refinable: ClassVar[bool] = True

    def faults(self) -> Iterator[Fault]:
        """Yield sensitivities that no training starts from, and values to be dropped without sensitivities."""
        if self.sensitivity_tokens is not None and not self.straight_through.steps:
            yield Fault("sensitivity_tokens", "needs straight-through training. Set straight_through.steps.")
        if self.drop_values and self.sensitivity_tokens is None:
            yield Fault("drop_values", "needs sensitivities. Set sensitivity_tokens.")

    def needs(self) -> Needs:
        """A corpus, if it is trained."""
        return Needs(training_steps=self.straight_through.steps)


@dataclass(frozen=True, config=STRICT)
class RefinementQuantizer(QuantizerRow):
    """The codes of a coarse message `of` the same model, refined: each step is divided into `factor` finer ones.

    Only the finer digits are coded, conditional on the coarse codes. Decoding needs the coarse message, which is named
    by hash. Both are paid for; a chain of both pays for the coarse message once.
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
            description="Fine steps per coarse step. An odd factor codes no value in two ways, and so costs less.",
        ),
    ] = 3

    refines: ClassVar[bool] = True

    def needs(self) -> Needs:
        """The coarse message."""
        return Needs(coarse=self.of)


@dataclass(frozen=True, config=STRICT)
class ReferenceQuantizer(QuantizerRow):
    """No values at all: the message names a model, fixed before the corpus, by hash, and decodes to it as it is."""

    kind: Literal["reference"]
    models: ClassVar[Models] = "fixed"
    title: ClassVar[str | None] = NOT_QUANTIZED


@dataclass(frozen=True, config=STRICT)
class CountsQuantizer(QuantizerRow):
    """For Markov models: counts on a logarithmic scale with `levels` steps; rare contexts are left to lower orders."""

    kind: Literal["counts"]
    levels: Annotated[int, Field(ge=2, le=64, description="Steps of the logarithmic scale of counts.")] = 16
    threshold: Annotated[PositiveInt, Field(description="Smallest count that is coded.")] = 2
    models: ClassVar[Models] = "chain"


@dataclass(frozen=True, config=STRICT)
class OnlineQuantizer(QuantizerRow):
    """For online references: the message names the predictor, which is empty before it reads the corpus."""

    kind: Literal["no_values"]
    models: ClassVar[Models] = "online"
    title: ClassVar[str | None] = "learns along"


@dataclass(frozen=True, config=STRICT)
class WatersicQuantizer(QuantizerRow):
    """The best for pretrained models: steps by the sensitivity of rows and columns, one scale for the whole model.

    The step of row r and column k is scale / √(g_r · D_k): g_r is the mean squared gradient of the loss at output r,
    D_k the part of input k that the inputs before it do not explain. Columns are rounded with error feedback. The codes
    of a column are chosen along a trellis, for the least error + `rate_weight` × bits.
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
    centred_tables: Annotated[
        bool,
        Field(
            description="Code embeddings and head as differences from their mean row, which the message then holds: "
            "fewer bits at equal loss where rows have much in common, as those of rare tokens do."
        ),
    ] = False
    drift: Annotated[
        Drift | None, Field(description="Rounding block by block for drifted inputs; `null`: for the original's.")
    ] = None
    tuning: Annotated[
        Tuning | None, Field(description="Training of steps, norms and biases after rounding; `null`: none.")
    ] = None
    models: ClassVar[Models] = "dense"
    title: ClassVar[str | None] = "WaterSIC"

    def needs(self) -> Needs:
        """A calibration."""
        return Needs(calibration=self.calibration, target=self.target)


@dataclass(frozen=True, config=STRICT)
class QuipQuantizer(QuantizerRow):
    """QuIP: linear layers between seeded random rotations that spread out outliers, rounded as in `gptq`.

    Embeddings are not rotated and are rounded as in `rtn`.
    """

    kind: Literal["quip"]
    calibration: CalibrationName
    target: StepTarget
    seed: Annotated[int, Field(ge=0, description="Seed of the rotations.")] = 0
    damping: Damping = 1e-2
    embedding_bits_per_weight: EmbeddingRate = None
    models: ClassVar[Models] = "dense"
    title: ClassVar[str | None] = "QuIP"

    def needs(self) -> Needs:
        """A calibration."""
        return Needs(calibration=self.calibration, target=self.target)


@dataclass(frozen=True, config=STRICT)
class QuipSharpQuantizer(QuantizerRow):
    """QuIP#: linear layers randomly rotated, then rounded to points of the E8 lattice; 2, 3 or 4 bits per weight.

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
    seed: Annotated[int, Field(ge=0, lt=1 << 64, description="Seed of the rotations' signs; the message holds it.")] = 0
    damping: Damping = 1e-2
    embedding_bits_per_weight: Annotated[
        Rate, Field(description="Bits that a value of embedding and head takes, coded.")
    ] = 4.0
    models: ClassVar[Models] = "dense"
    title: ClassVar[str | None] = "QuIP#"

    def needs(self) -> Needs:
        """A calibration, if it names one."""
        return Needs(calibration=self.calibration)


@dataclass(frozen=True, config=STRICT)
class PublishedQuantizer(QuantizerRow):
    """The codes of a checkpoint that is already quantized (QuIP#), unchanged: nothing is rounded or lost."""

    kind: Literal["published"]
    models: ClassVar[Models] = "imported"
    title: ClassVar[str | None] = "published codes"


@dataclass(frozen=True, config=STRICT)
class GptqQuantizer(QuantizerRow):
    """Steps as in `rtn`; columns are rounded one after the other, each correcting the errors before it (GPTQ, LDLQ)."""

    kind: Literal["gptq"]
    calibration: CalibrationName
    target: StepTarget
    steps: Steps = "row"
    damping: Damping = 1e-2
    embedding_bits_per_weight: EmbeddingRate = None
    models: ClassVar[Models] = "dense"
    title: ClassVar[str | None] = "GPTQ"

    def needs(self) -> Needs:
        """A calibration."""
        return Needs(calibration=self.calibration, target=self.target)


@dataclass(frozen=True, config=STRICT)
class RtnQuantizer(QuantizerRow):
    """Round to nearest: each row (or tensor) has a step, the same share of its root mean square everywhere."""

    kind: Literal["rtn"]
    target: StepTarget
    steps: Steps = "row"
    embedding_bits_per_weight: EmbeddingRate = None
    models: ClassVar[Models] = "dense"
    title: ClassVar[str | None] = "round to nearest"

    def needs(self) -> Needs:
        """Only its target."""
        return Needs(target=self.target)


Quantizer = Annotated[
    CodebookQuantizer
    | UniformQuantizer
    | CountsQuantizer
    | OnlineQuantizer
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


# Rows by their kind: the one value that the type of each row's `kind` allows.
QUANTIZERS: dict[str, type[QuantizerRow]] = {
    get_args(get_type_hints(row)["kind"])[0]: row for row in get_args(get_args(Quantizer)[0])
}
REFINING = frozenset(kind for kind, row in QUANTIZERS.items() if row.refines)
BEST_PRETRAINED = "watersic"  # as measured: see docs/compression.md
