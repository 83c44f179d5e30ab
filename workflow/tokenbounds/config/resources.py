"""Memory, time and threads that jobs ask for, as functions of a study's rows and of the sizes of what a job reads.

Every function gives what a first attempt asks for; the rules multiply by the number of the attempt. Until its inputs
exist, a job's sizes are not known: the functions raise FileNotFoundError, and Snakemake asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbounds.config.graph import base_model, centre_order, compared_model
from tokenbounds.files import parse_json

if TYPE_CHECKING:
    from tokenbounds.config import Study, TrainedModel

OPERATIONS_PER_SECOND = 2e10
"""What a modest CPU achieves on matrices."""

SMALL_PARAMETERS = 1e6
"""Networks with fewer parameters, embedding aside, are encoded and scored on one thread."""


@dataclass(frozen=True)
class Inputs:
    """Input files of a job, by name."""

    files: Mapping[str, tuple[str, ...]]

    def megabytes(self, *names: str, suffix: str = "") -> float:
        """Size of the files of some names (of all, without any) that end in `suffix`, in units of 10^6 bytes.

        An imported model, which is not copied, counts as its values would take in float32.
        """
        wanted = [path for name in names or self.files for path in self.files.get(name, ()) if path.endswith(suffix)]
        return sum(_size_bytes(Path(path)) for path in wanted) / 1e6

    def corpus(self) -> tuple[int, int]:
        """Tokens and vocabulary of the corpus under `manifest`, whose shards are not inputs.

        Both are 0 for a damaged manifest: the job itself says what is wrong.
        """
        (path,) = self.files["manifest"]
        try:
            manifest = parse_json(Path(path).read_text(encoding="utf-8"))
            return int(manifest["tokens"]), int(manifest["tokenizer"]["vocabulary_size"])
        except (ValueError, KeyError, TypeError, OverflowError):
            return 0, 0


def _size_bytes(path: Path) -> int:
    if path.name == "original.json":
        try:
            return 4 * int(parse_json(path.read_text(encoding="utf-8"))["parameters"])
        except (ValueError, KeyError, TypeError):  # the job itself says what is wrong with it
            return 0
    return path.stat().st_size


def growing(base: float, per_megabyte: float = 0.0) -> Callable[[Study, Inputs], float]:
    """What grows with the input alone: `base`, plus `per_megabyte` for each megabyte of it."""

    def amount(study: Study, inputs: Inputs) -> float:
        return base + per_megabyte * inputs.megabytes() if per_megabyte else base

    return amount


def block_parameters(model: TrainedModel) -> int:
    """Parameters of a trained model, without its embedding."""
    return 12 * model.architecture.layers * model.architecture.hidden**2


def training_minutes(study: Study, model: str, inputs: Inputs) -> float:
    """Twenty minutes, plus the time of 6 operations per parameter and token."""
    row = _trained(study, model)
    operations = 6 * block_parameters(row) * row.training.steps * row.training.batch_tokens
    return 20 + operations / OPERATIONS_PER_SECOND / 60


def training_megabytes(study: Study, model: str, inputs: Inputs) -> float:
    """6000, plus 16 bytes per parameter: value, gradient and two moments of the optimizer."""
    row, (_, vocabulary) = _trained(study, model), inputs.corpus()
    return 6000 + 16 * (block_parameters(row) + 2 * vocabulary * row.architecture.hidden) / 1e6


def finetuning_minutes(study: Study, model: str, inputs: Inputs) -> float:
    """Twenty minutes, plus the time of 4 operations per parameter of the base (4 bytes) and token."""
    row = study.models[model]
    assert row.kind == "finetuned"
    parameters = inputs.megabytes("base") * 1e6 / 4
    operations = 4 * parameters * row.training.steps * row.training.batch_tokens
    return 20 + operations / OPERATIONS_PER_SECOND / 60


def import_megabytes(study: Study, model: str, inputs: Inputs) -> float:
    """2500 and a tenth of a folder's files, which are read tensor by tensor; of quantized ones, which are decoded,
    3500 and a half; 16000 for a package or the hub, whose size is not known.
    """
    row = study.models[model]
    assert row.kind == "pretrained"
    if not inputs.files.get("files"):
        return 16000
    if row.gguf_file is None and not _is_quantized(inputs):
        return 2500 + 0.1 * inputs.megabytes()
    return 3500 + 0.5 * inputs.megabytes()


def encoding_megabytes(study: Study, message: str, inputs: Inputs) -> float:
    """6000 and 6 per MB of what is read; at most 8000 and a half where matrices are rounded a few at a time.

    That is what rounding eight matrices side by side takes, and the factor of second moments. Grids and codebooks of a
    dense model, without training, are found for one matrix at a time, the embedding among them, which may be a tenth of
    the model and takes up to 44 bytes for each value: 8000 and one per MB. Tuning and a smoothing head need the whole
    model. So does training codes, which takes up to 66 bytes for each value: 6000 and 17 per MB; not of adapters, as
    their base is not trained.
    """
    row = study.messages[message]
    needs, whole = row.quantizer.needs(), 6000 + 6 * inputs.megabytes()
    if needs.training_steps and study.models[row.model].kind == "trained":
        return 6000 + 17 * inputs.megabytes()
    if needs.training_steps or getattr(row.quantizer, "tuning", None) is not None or row.smoothing_head is not None:
        return whole
    if row.quantizer.models in ("dense", "imported"):
        return min(whole, 8000 + 0.5 * inputs.megabytes())
    model = study.models[row.model]
    if needs.coarse or model.kind not in ("trained", "pretrained") or not model.is_dense:
        return whole
    return min(whole, 8000 + inputs.megabytes())


def _is_quantized(inputs: Inputs) -> bool:
    """Whether a folder's configuration says that its values are quantized, or cannot be read."""
    configs = [path for path in inputs.files["files"] if Path(path).name == "config.json"]
    try:
        said = [parse_json(Path(path).read_text(encoding="utf-8")) for path in configs]
        return any(one.get("quantization_config") or one.get("quip_params") for one in said)
    except (OSError, ValueError, AttributeError):
        return True


def counting_minutes(study: Study, inputs: Inputs) -> float:
    """An hour, plus the time of one pass at 500 000 tokens per second."""
    return 60 + inputs.corpus()[0] / 5e5 / 60


def counting_megabytes(study: Study, model: str, inputs: Inputs) -> float:
    """4000, plus 48 bytes (number and count, thrice while tables merge) for each possible n-gram."""
    row, (tokens, vocabulary) = study.models[model], inputs.corpus()
    assert row.kind == "markov"
    return 4000 + 48 * min(tokens, vocabulary ** (row.order + 1)) / 1e6


def calibration_minutes(study: Study, calibration: str, inputs: Inputs) -> float:
    """Twenty minutes, plus 2.5 operations (two forward passes, one backward) per byte and token at 10^10 per second."""
    return 20 + 2.5 * inputs.megabytes() * 1e6 * study.calibrations[calibration].tokens / 1e10 / 60


def scoring_threads(study: Study, message: str) -> int:
    """Four for a network; one for what runs on one thread (`_is_single`)."""
    return 1 if _is_single(study, message) else 4


def encoding_threads(study: Study, message: str) -> int:
    """Sixteen for a network; one for what runs on one thread (`_is_single`)."""
    return 1 if _is_single(study, message) else 16


def _is_single(study: Study, message: str) -> bool:
    """Whether jobs for this message run on one thread each: Markov chains and online references do not use more.

    Networks of a few hundred thousand parameters could, but side by side they are done sooner: much of such a job is
    loading torch, coding and writing.
    """
    model = study.models[study.messages[message].model]
    if model.kind == "trained":
        return block_parameters(model) < SMALL_PARAMETERS
    return model.kind in ("markov", "online")


def scoring_minutes(study: Study, corpus: str, evaluation: str, message: str, inputs: Inputs) -> float:
    """Two hours and 15 s per MB of messages to decode, plus 50 µs per token and its operations, which
    double where predictions are compared with another model's.

    An online reference reads the whole corpus, at 200 000 tokens per second even on a slow machine; so do the n-grams
    of `centre_order`, whose whole prediction of a token takes 50 ns for each token that there is.
    """
    if study.models[study.messages[message].model].kind == "online":
        return 20 + inputs.corpus()[0] / 2e5 / 60
    row = study.evaluations[evaluation]
    passes = row.visible_tokens or row.context / (row.stride or row.context)
    models = 1 if compared_model(study, message) is None else 2
    operations = 2 * models * _scored_parameters(study, message, inputs) * passes
    token_seconds = 5e-5 + operations / OPERATIONS_PER_SECOND
    seconds = 15 * inputs.megabytes(suffix=".tbm")
    if centre_order(study, corpus, evaluation, message):
        tokens, vocabulary = inputs.corpus()
        seconds += tokens / 2e5
        token_seconds += 5e-8 * vocabulary
    return 120 + (seconds + _scored_tokens(study, evaluation, inputs) * token_seconds) / 60


def scoring_megabytes(study: Study, corpus: str, evaluation: str, message: str, inputs: Inputs) -> float:
    """4000, plus 60 per MB of messages and tables, 2 per MB of a base to decode or of a model that the
    message's is compared with, and 16 bytes per scored token.

    A message that is decoded block by block where memory is short (`placement`) need not ask for more than 16000 and 3
    per MB of it. The tables of an online reference take 40 bytes per entry of one, and counts of its vocabulary 8 per
    token. What `centre_order` takes comes on top (`_centre_megabytes`).
    """
    model = study.models[study.messages[message].model]
    if model.kind == "online":
        return 2000 + (40 * 2**model.table_bits + 8 * model.vocabulary_size) / 1e6
    base = inputs.megabytes("side_information") - inputs.megabytes("side_information", suffix=".tbm")
    base += inputs.megabytes("original")
    decoding = 60 * (inputs.megabytes() - base) + 2 * base
    tokens = 16 * _scored_tokens(study, evaluation, inputs) / 1e6
    tokens += _centre_megabytes(study, corpus, evaluation, message, inputs)
    placement = study.evaluations[evaluation].placement
    if (
        placement == "whole"
        or model.kind not in ("trained", "pretrained")
        or not model.is_dense
        or inputs.megabytes("side_information", "original")
    ):
        return 4000 + decoding + tokens
    return min(4000 + decoding, 16000 + 3 * inputs.megabytes("message")) + tokens


def _centre_megabytes(study: Study, corpus: str, evaluation: str, message: str, inputs: Inputs) -> float:
    """Tables of the n-grams of `centre_order`, 2^22 entries of 4 bytes for each length, and their whole predictions.

    These are held for a group of windows, at least 2^26 probabilities or those of one batch: float32, with those of
    the group before, and those of a batch; and float64 for a window.
    """
    order, (_, vocabulary) = centre_order(study, corpus, evaluation, message), inputs.corpus()
    if not order:
        return 0.0
    row = study.evaluations[evaluation]
    held = max(1 << 26, vocabulary * row.batch_tokens)
    return (4 * (order << 22) + 12 * held + 8 * vocabulary * row.context) / 1e6


def _trained(study: Study, model: str) -> TrainedModel:
    row = study.models[model]
    assert row.kind == "trained"
    return row


def _scored_tokens(study: Study, evaluation: str, inputs: Inputs) -> float:
    """Tokens of one scoring job: its share of the sample, or of the corpus."""
    row, (tokens, _) = study.evaluations[evaluation], inputs.corpus()
    return min(row.sample_tokens or tokens, tokens) / row.shards


def _scored_parameters(study: Study, message: str, inputs: Inputs) -> float:
    """Number of parameters that a token passes through when it is scored.

    None in a Markov chain; those of the base if there is one, 4 bytes each; at most four per byte of a pretrained
    message.
    """
    model = study.models[study.messages[message].model]
    if base_model(study, message) is not None:
        return inputs.megabytes("side_information") * 1e6 / 4
    if model.kind == "trained":
        return block_parameters(model) + inputs.corpus()[1] * model.architecture.hidden
    return 4 * inputs.megabytes("message") * 1e6 if model.kind == "pretrained" else 0
