"""What all rules share: the checked study, names as regular expressions, and resources that grow with the input."""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from tokenbounds.config import parse_study, row_json
from tokenbounds.config.graph import base_corpora, base_model, coarse_message, training_corpora
from tokenbounds.corpus.source_files import fingerprint, source_files, tokenizer_files
from tokenbounds.errors import TokenboundsError
from tokenbounds.tasks.tables import affinity_files


def checked_study(raw: dict):
    """The study that a configuration describes; faults end the run before any job starts."""
    try:
        return parse_study(raw)
    except TokenboundsError as error:
        raise WorkflowError(str(error)) from None


def one_of(names: Iterable[str]) -> str:
    """A regular expression that matches exactly `names`; with no names it matches nothing."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)"


def models_of_kind(kind: str) -> str:
    """A regular expression for the names of the study's models of one kind."""
    return one_of(name for name, model in study.models.items() if model.kind == kind)


def growing(base: float, per_input_mb: float = 0.0) -> Callable:
    """A resource: `base`, plus `per_input_mb` for each MB of input files, times the attempt (1 at first)."""

    def amount(wildcards, input, attempt):
        return int((base + per_input_mb * input.size_mb) * attempt)

    return amount


def corpus_size(input) -> tuple[int, int]:
    """Tokens and vocabulary of the corpus that a job reads, since its shards are no inputs.

    Before there is a manifest this raises FileNotFoundError, and Snakemake asks again when the job can run. For a
    damaged one it is nothing: the job itself says what is wrong.
    """
    try:
        manifest = json.loads(Path(input.manifest).read_text(encoding="utf-8"))
        return int(manifest["tokens"]), int(manifest["tokenizer"]["vocabulary_size"])
    except (ValueError, KeyError, TypeError):
        return 0, 0


def block_parameters(model) -> int:
    """Parameters of a trained model, without its embedding."""
    return 12 * model.architecture.layers * model.architecture.hidden**2


def training_minutes(wildcards, attempt) -> int:
    """Twenty minutes, plus the time of 6 operations a parameter and token at a modest 2·10^10 operations a second."""
    model = study.models[wildcards.model]
    seconds = 6 * block_parameters(model) * model.training.steps * model.training.batch_tokens / 2e10
    return int((20 + seconds / 60) * attempt)


def training_megabytes(wildcards, input, attempt) -> int:
    """6000, plus 16 bytes a parameter: value, gradient and two moments of the optimizer."""
    model = study.models[wildcards.model]
    embedding = 2 * corpus_size(input)[1] * model.architecture.hidden
    return int((6000 + 16 * (block_parameters(model) + embedding) / 1e6) * attempt)


def finetuning_minutes(wildcards, input, attempt) -> int:
    """Twenty minutes, plus the time of 4 operations a parameter of the base (4 bytes) and token at 2·10^10 a second."""
    training = study.models[wildcards.model].training
    parameters = sum(Path(path).stat().st_size for path in input.base) / 4
    return int((20 + 4 * parameters * training.steps * training.batch_tokens / 2e10 / 60) * attempt)


def import_megabytes(wildcards, input, attempt) -> int:
    """6000, plus two float32 copies of a folder's values; 16000 for a package or the hub, whose size is not known."""
    per_input_mb = 16 if study.models[wildcards.model].gguf_file else 4
    return int((6000 + per_input_mb * input.size_mb if input.files else 16000) * attempt)


def counting_minutes(wildcards, input, attempt) -> int:
    """An hour, plus the time of one pass at 500 000 tokens a second."""
    return int((60 + corpus_size(input)[0] / 5e5 / 60) * attempt)


def counting_megabytes(wildcards, input, attempt) -> int:
    """4000, plus 48 bytes (number and count, thrice while tables merge) for each gram there can be."""
    tokens, vocabulary = corpus_size(input)
    grams = min(tokens, vocabulary ** (study.models[wildcards.model].order + 1))
    return int((4000 + 48 * grams / 1e6) * attempt)


def calibration_minutes(wildcards, input, attempt) -> int:
    """Twenty minutes, plus 2.5 operations (two passes forwards, one back) a byte and token at 10^10 a second."""
    tokens = study.calibrations[wildcards.calibration].tokens
    return int((20 + 2.5 * input.size_mb * 1e6 * tokens / 1e10 / 60) * attempt)


def scored_tokens(wildcards, input) -> float:
    """Tokens of one scoring job: its share of the sample, or of the corpus."""
    evaluation = study.evaluations[wildcards.evaluation]
    tokens = corpus_size(input)[0]
    return min(evaluation.sample_tokens or tokens, tokens) / evaluation.shards


def scored_parameters(wildcards, input) -> int:
    """Parameters a token passes through when it is scored.

    None in a chain; those of the base if there is one, 4 bytes each; at most four a byte of a pretrained message.
    """
    model = study.models[study.messages[wildcards.message].model]
    if base_model(study, wildcards.message):
        return sum(Path(path).stat().st_size for path in input.side_information) // 4
    if model.kind == "trained":
        return block_parameters(model) + corpus_size(input)[1] * model.architecture.hidden
    return 4 * Path(input.message).stat().st_size if model.kind == "pretrained" else 0


def scoring_minutes(wildcards, input, attempt) -> int:
    """Two hours and 10 minutes a MB to decode, plus 50 µs a token and its operations at 2·10^10 a second."""
    evaluation = study.evaluations[wildcards.evaluation]
    passes = evaluation.visible_tokens or evaluation.context / (evaluation.stride or evaluation.context)
    token_seconds = 5e-5 + 2 * scored_parameters(wildcards, input) * passes / 2e10
    coded = sum(Path(path).stat().st_size for path in input if path.endswith(".tbm")) / 1e6
    return int((120 + 10 * coded + scored_tokens(wildcards, input) * token_seconds / 60) * attempt)


def scoring_megabytes(wildcards, input, attempt) -> int:
    """4000, 60 a MB of the message and 2 a MB of a base to decode it, plus 16 bytes a scored token."""
    base = sum(Path(path).stat().st_size for path in input.side_information if not path.endswith(".tbm")) / 1e6
    decoding = 60 * (input.size_mb - base) + 2 * base
    return int((4000 + decoding + 16 * scored_tokens(wildcards, input) / 1e6) * attempt)


study = checked_study(config)
