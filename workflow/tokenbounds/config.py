"""The configuration as types: what a study is made of, checked before any job runs.

A study is a set of named rows that refer to each other by name: corpora, models, messages, evaluations and
certificates. Every type is a frozen dataclass; unknown keys are rejected with the nearest valid key; the JSON schema
in `workflow/schemas/` and the tables in `config/README.md` are generated from here. Every default is visible below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tokenbounds.config_faults import explain_errors, study_faults
from tokenbounds.errors import ConfigError
from tokenbounds.files import canonical_json

_STRICT = ConfigDict(extra="forbid", strict=False)

PositiveInt = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
BoundName = Literal[
    "azuma",
    "freedman",
    "betting",
    "telescoped",
    "mixture",
    "documents",
    "documents_betting",
    "sequences",
    "sequences_betting",
]


# --- corpora ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, config=_STRICT)
class PythonStdlibSource:
    """The Python standard library of the interpreter that runs the job: its sources and documentation topics."""

    kind: Literal["python_stdlib"]


@dataclass(frozen=True, config=_STRICT)
class TextSource:
    """Plain text files, one document each. `paths` are files, folders (searched for *.txt) or glob patterns."""

    kind: Literal["text"]
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    licence: str = "unstated"


@dataclass(frozen=True, config=_STRICT)
class JsonLinesSource:
    """JSON lines files (plain or .gz), one document a line, its text under the key `field`."""

    kind: Literal["jsonl"]
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    field: str = "text"
    licence: str = "unstated"


@dataclass(frozen=True, config=_STRICT)
class ParquetSource:
    """Parquet files, one document a row, its text in the column `field`."""

    kind: Literal["parquet"]
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    field: str = "text"
    licence: str = "unstated"


@dataclass(frozen=True, config=_STRICT)
class HuggingFaceSource:
    """A dataset of the Hugging Face hub (by name, streamed) or on disk (a folder written by `save_to_disk`)."""

    kind: Literal["huggingface"]
    name: str
    subset: str | None = None
    split: str = "train"
    field: str = "text"
    revision: str | None = None
    documents: PositiveInt | None = None
    licence: str = "unstated"


Source = Annotated[
    PythonStdlibSource | TextSource | JsonLinesSource | ParquetSource | HuggingFaceSource, Field(discriminator="kind")
]


@dataclass(frozen=True, config=_STRICT)
class ByteTokenizer:
    """One token a byte of UTF-8: 256 tokens, fixed before any corpus."""

    kind: Literal["bytes"]


@dataclass(frozen=True, config=_STRICT)
class TransformersTokenizer:
    """A tokenizer that `transformers.AutoTokenizer` loads, by hub name, by folder, or from a GGUF file.

    `name` is a hub name or a folder; with `package`, the folder of that installed Python package. `trained_on` is
    `published` when it was fixed before and independently of the corpus, or the name of the corpus row it was trained
    on: that row must share no document with this one.
    """

    kind: Literal["transformers"]
    name: str | None = None
    package: str | None = None
    revision: str | None = None
    gguf_file: str | None = None
    trained_on: str = "published"


TokenizerSpec = Annotated[ByteTokenizer | TransformersTokenizer, Field(discriminator="kind")]


@dataclass(frozen=True, config=_STRICT)
class CorpusSpec:
    """A corpus: where its documents come from, how they become tokens, and into how many shards they are written."""

    source: Source
    tokenizer: TokenizerSpec = Field(default_factory=lambda: ByteTokenizer(kind="bytes"))
    shards: PositiveInt = 4


# --- models -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, config=_STRICT)
class Architecture:
    """A decoder-only transformer of a family in the registry; the vocabulary comes from the corpus's tokenizer."""

    family: Literal["gpt2", "llama", "mistral"] = "gpt2"
    layers: PositiveInt = 4
    hidden: PositiveInt = 128
    heads: PositiveInt = 4
    key_value_heads: PositiveInt | None = None
    feed_forward: PositiveInt | None = None
    context: PositiveInt = 256
    tied_embedding: bool = True


@dataclass(frozen=True, config=_STRICT)
class Dense:
    """Every parameter is trained and coded."""

    kind: Literal["dense"]


@dataclass(frozen=True, config=_STRICT)
class Lora:
    """Linear layers are W0 + (scale/rank)·B·A: W0 comes from the seed alone, only A and B are trained and coded."""

    kind: Literal["lora"]
    rank: PositiveInt = 8
    scale: Annotated[float, Field(gt=0)] = 16.0
    targets: Annotated[tuple[Literal["attention", "mlp", "head", "embedding"], ...], Field(min_length=1)] = (
        "attention",
        "mlp",
    )


Parameterization = Annotated[Dense | Lora, Field(discriminator="kind")]


@dataclass(frozen=True, config=_STRICT)
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


@dataclass(frozen=True, config=_STRICT)
class TrainedModel:
    """A transformer trained from scratch on `corpus`. `seed` draws the fixed part and the initial trained part."""

    kind: Literal["trained"]
    corpus: str
    architecture: Architecture = Field(default_factory=Architecture)
    parameterization: Parameterization = Field(default_factory=lambda: Dense(kind="dense"))
    training: Training = Field(default_factory=Training)
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=_STRICT)
class PretrainedModel:
    """A pretrained causal language model: a hub name or a folder, or a GGUF file in a folder or a Python package.

    `name` is a hub name or a folder; with `package`, the folder of that installed Python package. No code from the
    model is ever run.
    """

    kind: Literal["pretrained"]
    name: str | None = None
    package: str | None = None
    gguf_file: str | None = None
    revision: str | None = None


@dataclass(frozen=True, config=_STRICT)
class MarkovModel:
    """A Markov chain of the given order, its counts taken from `corpus`."""

    kind: Literal["markov"]
    corpus: str
    order: Annotated[int, Field(ge=0, le=6)] = 1


ModelSpec = Annotated[TrainedModel | PretrainedModel | MarkovModel, Field(discriminator="kind")]


# --- messages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, config=_STRICT)
class Finetuning:
    """Straight-through training of quantized weights (and codebooks) before they are coded."""

    steps: Annotated[int, Field(ge=0)] = 0
    batch_tokens: PositiveInt = 8192
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    rate_weight: Annotated[float, Field(ge=0)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, config=_STRICT)
class CodebookQuantizer:
    """Each tensor's values are replaced by the nearest of `levels` learned values (k-means, then fine-tuning)."""

    kind: Literal["codebook"]
    levels: Annotated[int, Field(ge=2, le=256)] = 16
    finetuning: Finetuning = Field(default_factory=Finetuning)


@dataclass(frozen=True, config=_STRICT)
class UniformQuantizer:
    """Each tensor's values are rounded to multiples of a step: `step_ratio` × its root mean square."""

    kind: Literal["uniform"]
    step_ratio: Annotated[float, Field(gt=0)] = 0.5
    finetuning: Finetuning = Field(default_factory=Finetuning)


@dataclass(frozen=True, config=_STRICT)
class CountsQuantizer:
    """For Markov models: counts on a logarithmic scale with `levels` steps, rare contexts left to lower orders."""

    kind: Literal["counts"]
    levels: Annotated[int, Field(ge=2, le=64)] = 16
    threshold: PositiveInt = 2


Quantizer = Annotated[CodebookQuantizer | UniformQuantizer | CountsQuantizer, Field(discriminator="kind")]


@dataclass(frozen=True, config=_STRICT)
class MessageSpec:
    """A message: which model, how its values are quantized, and which entropy coder writes the symbols."""

    model: str
    quantizer: Quantizer
    coder: Literal["adaptive", "static"] = "adaptive"


# --- evaluations and certificates -------------------------------------------------------------------------------------


@dataclass(frozen=True, config=_STRICT)
class EvaluationSpec:
    """How tokens are scored: windows of `context` tokens that advance by `stride`, all of them or a sample.

    `sample_tokens` is the approximate number of tokens whose blocks are drawn with replacement; null scores all.
    """

    context: PositiveInt = 256
    stride: PositiveInt | None = None
    sample_tokens: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    shards: PositiveInt = 2
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_tokens: PositiveInt = 16384


@dataclass(frozen=True, config=_STRICT)
class BoundsSpec:
    """What a certificate states: total failure probability, metrics, bounds, and the grids it pays for."""

    delta: Probability = 0.05
    sampling_share: Probability = 0.2
    top_k: tuple[PositiveInt, ...] = (1, 10, 100)
    bounds: Annotated[tuple[BoundName, ...], Field(min_length=1)] = ("azuma", "betting")
    alphas: Annotated[tuple[Probability, ...], Field(min_length=1)] = (
        *(0.0001, 0.0003, 0.001, 0.003),
        *(0.01, 0.03, 0.1, 0.2),
    )
    lambdas: PositiveInt = 32
    link_alphas: Annotated[tuple[Probability, ...], Field(min_length=1)] = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True, config=_STRICT)
class CertificateSpec:
    """A certificate: which message, on which corpus, scored how, stating which bounds.

    `chain` names cheaper messages, cheapest first, towards which the bounds `telescoped` and `mixture` smooth the
    certified one. With `prior: held_out` nothing is paid for messages, which must not depend on the corpus.
    """

    message: str
    corpus: str
    evaluation: str = "default"
    chain: Annotated[tuple[str, ...], Field(max_length=5)] = ()
    prior: Literal["message", "held_out"] = "message"
    bounds: BoundsSpec = Field(default_factory=BoundsSpec)


@dataclass(frozen=True, config=_STRICT)
class Study:
    """A whole study. Rows refer to each other by name."""

    study: str
    corpora: Annotated[dict[str, CorpusSpec], Field(min_length=1)]
    models: Annotated[dict[str, ModelSpec], Field(min_length=1)]
    messages: Annotated[dict[str, MessageSpec], Field(min_length=1)]
    certificates: Annotated[dict[str, CertificateSpec], Field(min_length=1)]
    evaluations: dict[str, EvaluationSpec] = Field(default_factory=lambda: {"default": EvaluationSpec()})
    results: str = "results"


_STUDY = TypeAdapter(Study)


def parse_study(raw: dict[str, Any]) -> Study:
    """Check a configuration and return it as a `Study`.

    Raises
    ------
    ConfigError
        With one line per fault: the path of the key, what is wrong, and the nearest valid key or name.
    """
    try:
        study = _STUDY.validate_python(raw)
    except ValidationError as error:
        lines = explain_errors(raw, error, study_schema())
        raise ConfigError("the configuration is not valid:\n" + "\n".join(lines)) from error
    faults = list(study_faults(study))
    if faults:
        raise ConfigError("the configuration is not valid:\n" + "\n".join(faults))
    return study


def load_study(path: Path | str) -> Study:
    """Read a YAML configuration and check it.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, or does not describe a study.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist. Pass an existing configuration file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no mapping of keys. Start from config/config.yaml.")
    return parse_study(raw)


def row_json(row: Any) -> str:
    """Canonical JSON of one row, defaults filled in: equal for configurations that mean the same."""
    return canonical_json(TypeAdapter(type(row)).dump_python(row, mode="json"))


def parse_row(kind: Any, text: str) -> Any:
    """Rebuild a row from `row_json`; `kind` is its type, e.g. `CorpusSpec` or the union `ModelSpec`."""
    return TypeAdapter(kind).validate_json(text)


def study_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a configuration file."""
    schema = _STUDY.json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
