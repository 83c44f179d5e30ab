"""What can be wrong with a study, said in the user's own keys, with the nearest valid one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tokenbounds.config.antibody_faults import antibody_faults
from tokenbounds.config.certificate_faults import certificate_faults
from tokenbounds.config.given import given_faults
from tokenbounds.config.quantizers import QUANTIZERS
from tokenbounds.config.task_faults import task_faults

if TYPE_CHECKING:
    from tokenbounds.config import EvaluationSpec, MessageSpec, ModelSpec, Study

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SECTIONS = ("corpora", "models", "calibrations", "messages", "evaluations", "certificates", "tasks")


def explain_errors(raw: dict[str, Any], error: ValidationError, schema: dict[str, Any]) -> list[str]:
    """One line per fault that pydantic found.

    Parameters
    ----------
    raw
        The configuration as it was read.
    error
        Pydantic's error.
    schema
        JSON schema of a configuration: what the valid keys are.
    """
    lines = []
    for fault in error.errors():
        where = ".".join(_key_path(raw, fault["loc"]))
        if fault["type"] == "unexpected_keyword_argument":
            lines.append(f"  {where}: unknown key{_nearest(str(fault['loc'][-1]), _valid_keys(schema))}")
        elif fault["type"] in {"missing", "missing_argument"}:
            lines.append(f"  {where}: this key is required and missing.")
        else:
            lines.append(f"  {where}: {fault['msg']} (given: {fault['input']!r}).")
    return lines


def study_faults(study: Study) -> Iterator[str]:
    """Yield a line for everything that types alone cannot refuse."""
    yield from _reference_faults(study)
    yield from _tokenizer_faults(study)
    yield from antibody_faults(study)
    yield from _model_faults(study)
    yield from _calibration_faults(study)
    yield from _start_faults(study)
    yield from _message_faults(study)
    yield from _post_training_faults(study)
    yield from given_faults(study)
    yield from _evaluation_faults(study)
    yield from certificate_faults(study)
    yield from task_faults(study)
    yield from _name_faults(study)


def _key_path(raw: Any, location: tuple[Any, ...]) -> Iterator[str]:
    """Yield the parts of a fault's location that are the user's keys, not pydantic's names of union members.

    Pydantic puts the tag of the member, which is the value of its `kind`, behind the key that holds the union.
    """
    value = raw
    for part in location:
        if isinstance(value, dict) and part not in value and value.get("kind") == part:
            continue
        yield str(part)
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None


def _valid_keys(schema: dict[str, Any]) -> set[str]:
    definitions = [schema, *schema.get("$defs", {}).values()]
    return {key for definition in definitions for key in definition.get("properties", {})}


def _nearest(word: str, candidates: Iterable[str]) -> str:
    """The end of a sentence about `word`: a guess of what was meant, or a full stop."""
    close = difflib.get_close_matches(word, sorted(candidates), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else "."


def _reference_faults(study: Study) -> Iterator[str]:
    """Yield a line for every name that refers to no row."""
    for where, name, rows in _references(study):
        if name not in rows:
            known = ", ".join(sorted(rows)) or "none"
            yield f"  {where}: there is no row '{name}'{_nearest(name, rows)} Known rows: {known}."


def _references(study: Study) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield every use of a row's name: the key that uses it, the name, and the rows it may refer to."""
    for name, corpus in study.corpora.items():
        trained_on = getattr(corpus.tokenizer, "trained_on", "published")
        if trained_on not in ("published", name):
            yield f"corpora.{name}.tokenizer.trained_on", trained_on, study.corpora
    for name, model in study.models.items():
        if model.kind != "pretrained":
            yield f"models.{name}.corpus", model.corpus, study.corpora
        if model.kind == "trained" and model.start is not None:
            yield f"models.{name}.start", model.start, study.models
        if model.kind == "finetuned":
            yield f"models.{name}.base", model.base, study.models
    for name, calibration in study.calibrations.items():
        yield f"calibrations.{name}.model", calibration.model, study.models
        yield f"calibrations.{name}.corpus", calibration.corpus, study.corpora
    for name, message in study.messages.items():
        yield f"messages.{name}.model", message.model, study.models
        needs = message.quantizer.needs()
        if needs.target is not None and needs.target.corpus is not None:
            yield f"messages.{name}.quantizer.target.corpus", needs.target.corpus, study.corpora
        if needs.calibration is not None:
            yield f"messages.{name}.quantizer.calibration", needs.calibration, study.calibrations
        if needs.coarse is not None:
            yield f"messages.{name}.quantizer.of", needs.coarse, study.messages
    for name, certificate in study.certificates.items():
        yield f"certificates.{name}.message", certificate.message, study.messages
        for link in certificate.chain:
            yield f"certificates.{name}.chain", link, study.messages
        yield f"certificates.{name}.corpus", certificate.corpus, study.corpora
        yield f"certificates.{name}.evaluation", certificate.evaluation, study.evaluations
    for name, task in study.tasks.items():
        yield from ((f"tasks.{name}.messages", each, study.messages) for each in task.messages)
        if task.kind == "recovery":
            yield f"tasks.{name}.corpus", task.corpus, study.corpora


def _tokenizer_faults(study: Study) -> Iterator[str]:
    for name, corpus in study.corpora.items():
        tokenizer = corpus.tokenizer
        if tokenizer.kind != "transformers":
            continue
        if tokenizer.trained_on == name:
            yield (
                f"  corpora.{name}.tokenizer.trained_on: a tokenizer trained on the corpus it tokenizes depends on the "
                "data, and no bound holds. Train it on a disjoint corpus or use a published one."
            )
        if (tokenizer.name is None) == (tokenizer.package is None):
            yield f"  corpora.{name}.tokenizer: give exactly one of 'name' and 'package'."


def _model_faults(study: Study) -> Iterator[str]:
    for name, model in study.models.items():
        if model.kind == "trained" and model.architecture.hidden % model.architecture.heads:
            yield f"  models.{name}.architecture: hidden {model.architecture.hidden} is no multiple of heads."
        if model.kind == "pretrained" and (model.name is None) == (model.package is None):
            yield f"  models.{name}: give exactly one of 'name' and 'package'."
        if model.kind == "pretrained" and model.subfolder is not None and model.package is None:
            yield f"  models.{name}.subfolder: it is a folder inside a 'package'. Name the package."


def _calibration_faults(study: Study) -> Iterator[str]:
    for name, calibration in study.calibrations.items():
        model = study.models.get(calibration.model)
        if model is None:
            continue
        parameterization = getattr(model, "parameterization", None)
        if model.kind == "markov" or (parameterization is not None and parameterization.kind != "dense"):
            yield f"  calibrations.{name}.model: '{calibration.model}' is no dense transformer. Calibrate one that is."


def _start_faults(study: Study) -> Iterator[str]:
    """Yield a line for every model that cannot start from the one it names."""
    for name, model in study.models.items():
        if model.kind != "trained" or model.start is None:
            continue
        if model.parameterization.kind not in ("dense", "kronecker", "monarch"):
            yield (
                f"  models.{name}.start: a {model.parameterization.kind} model keeps its drawn values below what is "
                "trained. Start dense, kronecker and monarch models only."
            )
        seen, below = {name}, model.start
        while below in study.models and below not in seen:
            seen.add(below)
            below = getattr(study.models[below], "start", None) or ""
        if below in seen:
            yield f"  models.{name}.start: these models start from each other in a circle. Leave one 'start' out."
        if getattr(study.models.get(model.start), "kind", "") == "markov":
            yield f"  models.{name}.start: '{model.start}' is a Markov chain. Name a transformer."


def _message_faults(study: Study) -> Iterator[str]:
    for name, message in study.messages.items():
        model, quantizer = study.models.get(message.model), message.quantizer
        if model is None:
            continue
        if (model.kind == "markov") != (quantizer.models == "chain"):
            kinds = [kind for kind, row in QUANTIZERS.items() if row.models == "chain"]
            wanted = f"{'' if model.kind == 'markov' else 'other than '}{' or '.join(kinds)}"
            yield f"  messages.{name}.quantizer: model '{message.model}' needs a quantizer of kind {wanted}."
        elif model.kind == "pretrained" and quantizer.needs().training_steps:
            yield (
                f"  messages.{name}.quantizer.straight_through: model '{message.model}' is pretrained and names no "
                "corpus to train on. Leave out 'straight_through'."
            )
        yield from _head_faults(name, message, model)


def _head_faults(name: str, message: MessageSpec, model: ModelSpec) -> Iterator[str]:
    if message.smoothing_head is None or model.kind == "trained":
        return
    why = "is a Markov chain and has no hidden state" if model.kind == "markov" else "names no corpus to train it on"
    yield f"  messages.{name}.smoothing_head: model '{message.model}' {why}. Leave out 'smoothing_head'."


def _post_training_faults(study: Study) -> Iterator[str]:
    for name, message in study.messages.items():
        quantizer = message.quantizer
        target, calibration = quantizer.needs().target, quantizer.needs().calibration
        if target is not None and target.stated != 1:
            wanted = "bits_per_weight, message_megabits, scale, bound"
            yield f"  messages.{name}.quantizer.target: give exactly one of {wanted}."
        if target is not None and (target.bound is None) != (target.corpus is None):
            yield f"  messages.{name}.quantizer.target: 'bound' and 'corpus' belong together. Give both or neither."
        if calibration in study.calibrations and study.calibrations[calibration].model != message.model:
            yield (
                f"  messages.{name}.quantizer.calibration: '{calibration}' calibrates model "
                f"'{study.calibrations[calibration].model}', not '{message.model}'. Name one of its own."
            )
        model = study.models.get(message.model)
        if quantizer.models == "imported" and model is not None and model.kind != "pretrained":
            yield f"  messages.{name}.quantizer: '{message.model}' is not pretrained, so it has no published codes."
        is_dense = getattr(getattr(model, "parameterization", None), "kind", "dense") == "dense"
        if quantizer.models == "dense" and not is_dense:
            others = " or ".join(kind for kind, row in QUANTIZERS.items() if row.models == "transformer")
            yield (
                f"  messages.{name}.quantizer: '{quantizer.kind}' needs a dense model; '{message.model}' is not. "
                f"Use {others}."
            )


def _evaluation_faults(study: Study) -> Iterator[str]:
    for name, evaluation in study.evaluations.items():
        if evaluation.stride is not None and evaluation.stride > evaluation.context:
            yield f"  evaluations.{name}.stride: {evaluation.stride} is longer than the context {evaluation.context}."
        if evaluation.stride is not None and evaluation.visible_tokens is not None:
            yield (
                f"  evaluations.{name}.stride: 'visible_tokens' already says what the model sees before each token. "
                "Leave one of the two out."
            )
    for name, certificate in study.certificates.items():
        message, window = study.messages.get(certificate.message), study.evaluations.get(certificate.evaluation)
        model = None if message is None else study.models.get(message.model)
        if model is not None and model.kind == "finetuned":
            model = study.models.get(model.base)
        if message is not None and model is not None and window is not None:
            where = f"  certificates.{name}.evaluation: '{certificate.evaluation}'"
            yield from _window_faults(where, message.model, model, window)


def _window_faults(where: str, name: str, model: ModelSpec, evaluation: EvaluationSpec) -> Iterator[str]:
    """Yield a line if a model cannot see what the evaluation shows, or sees more."""
    seen = evaluation.visible_tokens or evaluation.context
    if model.kind == "trained" and seen > model.architecture.context:
        yield (
            f"{where} has windows of {seen} tokens, but model '{name}' has {model.architecture.context} positions. "
            "Shorten the evaluation's context or lengthen the architecture's."
        )
    if model.kind == "markov" and evaluation.visible_tokens is not None and model.order > evaluation.visible_tokens:
        yield (
            f"{where} shows {evaluation.visible_tokens} tokens, but model '{name}' is a chain of order {model.order}. "
            "Show as many, or lower the order."
        )


def _name_faults(study: Study) -> Iterator[str]:
    """Yield a line for every row name that cannot be part of a file name."""
    for section in _SECTIONS:
        for name in getattr(study, section):
            if not _NAME.fullmatch(name):
                yield f"  {section}.{name}: use letters, digits, '.', '_' and '-' in names; they become file names."
