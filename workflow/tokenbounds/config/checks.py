"""What can be wrong with a study beyond its types, in terms of the user's keys.

A type finds faults within one row (`Checked.faults`). Here rows are checked against each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from tokenbounds.config.base import Checked, Section, nested, references
from tokenbounds.config.certificates import LARGEST_CENTRED_VOCABULARY
from tokenbounds.config.explain import nearest
from tokenbounds.config.graph import (
    base_corpora,
    coarse_message,
    compared_model,
    training_corpora,
)
from tokenbounds.config.quantizers import QUANTIZERS, Models
from tokenbounds.config.task_checks import task_faults

if TYPE_CHECKING:
    from tokenbounds.config import CertificateSpec, MessageSpec, ModelSpec, Study

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# Packages whose models were trained on data that their authors describe but do not name.
_UNKNOWN_DATA = ("iglm",)


def study_faults(study: Study) -> Iterator[str]:
    """Yield a line for every fault that types alone cannot detect.

    Rows are compared with each other only if every name refers to a row: a misspelt name is reported
    first.
    """
    yield from own_faults("", study)
    for section in get_args(Section):
        for name, row in study.section(section).items():
            if not _NAME.fullmatch(name):
                yield (
                    f"{section}.{name:.100}: use at most 100 letters, digits, '.', '_' and '-' in names; they become "
                    "file names."
                )
            yield from own_faults(f"{section}.{name}", row)
    unknown = list(_unknown_names(study))
    yield from unknown
    if unknown:
        return
    yield from _corpus_faults(study)
    yield from _reference_faults(study)
    yield from _model_faults(study)
    yield from _calibration_faults(study)
    for name, message in study.messages.items():
        yield from _message_faults(f"messages.{name}", study, message)
    for name, certificate in study.certificates.items():
        yield from _certificate_faults(f"certificates.{name}", study, certificate)
    yield from _sharing_faults(study)
    yield from task_faults(study)


def own_faults(where: str, row: object) -> Iterator[str]:
    """Yield a line for every part of a row whose keys do not fit together."""
    for key, part in nested(row):
        if isinstance(part, Checked):
            for fault in part.faults():
                yield f"{'.'.join(filter(None, (where, key, fault.key)))}: {fault.sentence}"


def _unknown_names(study: Study) -> Iterator[str]:
    for section in get_args(Section):
        for name, row in study.section(section).items():
            for use in references(row):
                rows = study.section(use.section)
                if use.name not in rows:
                    known = ", ".join(sorted(rows)) or "none"
                    guess = nearest(use.name, rows)
                    yield f"{section}.{name}.{use.key}: there is no row '{use.name}'{guess} Known rows: {known}."


def _corpus_faults(study: Study) -> Iterator[str]:
    for name, corpus in study.corpora.items():
        for use in references(corpus):
            if use.name == name:
                yield (
                    f"corpora.{name}.{use.key}: a tokenizer trained on the corpus it tokenizes depends on the data, "
                    "and no bound holds. Train it on a disjoint corpus or use a published one."
                )


def _reference_faults(study: Study) -> Iterator[str]:
    """Yield a line for every use of a corpus by reference that a draw of documents does not allow."""
    drawn = {name for name, corpus in study.corpora.items() if corpus.source.kind == "reference"}
    for section in ("models", "messages", "calibrations"):
        for name, row in study.section(section).items():
            for use in references(row):
                if use.section == "corpora" and use.name in drawn:
                    yield (
                        f"{section}.{name}.{use.key}: '{use.name}' is a corpus by reference, whose draw is for scoring "
                        "alone: what is certified must not depend on it. Name another corpus."
                    )
    for name, certificate in study.certificates.items():
        partly = study.evaluations[certificate.evaluation].blocks_per_document is not None
        if certificate.corpus not in drawn:
            if partly:
                yield (
                    f"certificates.{name}.evaluation: blocks_per_document is for corpora by reference, and "
                    f"'{certificate.corpus}' is none. Use sample_tokens."
                )
            continue
        where, of = f"certificates.{name}", f"'{certificate.corpus}' is a corpus by reference"
        if study.evaluations[certificate.evaluation].sample_tokens is not None:
            yield (
                f"{where}.evaluation: {of}, a draw already. Use an evaluation with sample_tokens: null, and perhaps "
                "with blocks_per_document."
            )
        other = [bound for bound in certificate.bounds.bounds if not bound.is_single]
        if other:
            yield f"{where}.bounds: '{other[0]}' cannot be stated, as {of}. Leave it out."
        if any(study.models[study.messages[each].model].kind == "online" for each in certificate.messages):
            yield f"{where}.message: {of}, which has no order to learn along. Certify it on another corpus."
        if certificate.prior == "held_out" and training_corpora(study, certificate):
            yield (
                f"{where}.prior: {of}, most of which is not read, so that nothing compares it with what the model "
                "was trained on. Certify it with prior: message."
            )


def _model_faults(study: Study) -> Iterator[str]:
    for name, model in study.models.items():
        if model.kind == "finetuned" and not study.models[model.base].is_dense:
            yield (
                f"models.{name}.base: '{model.base}' is neither pretrained nor trained densely. Only such a "
                "model can be a base."
            )
        if model.kind == "trained" and model.start is not None:
            seen: list[str] = [name]
            below: str | None = model.start
            while below is not None and below not in seen:
                seen.append(below)
                other = study.models[below]
                below = other.start if other.kind == "trained" else None
            if below is not None:
                yield f"models.{name}.start: these models start from each other in a circle. Leave one 'start' out."
            if study.models[model.start].kind in ("markov", "online"):
                what = "a Markov chain" if study.models[model.start].kind == "markov" else "an online reference"
                yield f"models.{name}.start: '{model.start}' is {what}. Name a transformer."


def _calibration_faults(study: Study) -> Iterator[str]:
    for name, calibration in study.calibrations.items():
        if not study.models[calibration.model].is_dense:
            yield f"calibrations.{name}.model: '{calibration.model}' is not a dense transformer. Calibrate one that is."


def _message_faults(where: str, study: Study, message: MessageSpec) -> Iterator[str]:
    """Yield a line if the model, the calibration or the coarse message does not fit the quantizer."""
    model, quantizer = study.models[message.model], message.quantizer
    # Chains and online references each have a quantizer of their own, and all others are for transformers.
    own: dict[str, Models] = {"markov": "chain", "online": "online"}
    wanted = own.get(model.kind)
    if wanted is not None and quantizer.models != wanted:
        yield f"{where}.quantizer: model '{message.model}' needs a quantizer of kind {_kinds(wanted)}."
        return
    if wanted is None and quantizer.models in own.values():
        yield f"{where}.quantizer: model '{message.model}' needs a quantizer of kind other than {quantizer.kind}."
        return
    if model.kind == "pretrained" and quantizer.needs().training_steps:
        yield (
            f"{where}.quantizer.straight_through: model '{message.model}' is pretrained and names no corpus to train "
            "on. Leave out 'straight_through'."
        )
    if message.smoothing_head is not None and model.kind != "trained":
        why = {
            "markov": "is a Markov chain and has no hidden state",
            "online": "is an online reference and has no hidden state",
            "pretrained": "names no corpus to train it on",
            "finetuned": "is fine-tuned, and a smoothing head is trained with a model from scratch only",
        }[model.kind]
        yield f"{where}.smoothing_head: model '{message.model}' {why}. Leave out 'smoothing_head'."
    if quantizer.models == "imported" and model.kind != "pretrained":
        yield f"{where}.quantizer: '{message.model}' is not pretrained, so it has no published codes."
    if quantizer.models == "fixed" and not model.is_dense:
        yield (
            f"{where}.quantizer: model '{message.model}' cannot be named by hash: it is neither pretrained nor "
            "trained densely. Use another quantizer."
        )
    if quantizer.models == "dense" and model.kind not in ("markov", "online") and not model.is_dense:
        yield (
            f"{where}.quantizer: '{quantizer.kind}' needs a dense model; '{message.model}' is not. Use "
            f"{_kinds('transformer')}."
        )
    yield from _named_by_quantizer(f"{where}.quantizer", study, message)


def _kinds(models: Models) -> str:
    """The kinds of quantizers for certain models."""
    return " or ".join(kind for kind, row in QUANTIZERS.items() if row.models == models)


def _named_by_quantizer(where: str, study: Study, message: MessageSpec) -> Iterator[str]:
    """Yield a line if what a quantizer names belongs to another model."""
    for use in references(message.quantizer):
        if use.section == "calibrations" and study.calibrations[use.name].model != message.model:
            yield (
                f"{where}.{use.key}: '{use.name}' calibrates model '{study.calibrations[use.name].model}', not "
                f"'{message.model}'. Name one of its own."
            )
        if use.section != "messages":
            continue
        coarse = study.messages[use.name]
        if not coarse.quantizer.refinable:
            wanted = " or ".join(kind for kind, row in QUANTIZERS.items() if row.refinable)
            kind = coarse.quantizer.kind
            yield f"{where}.{use.key}: '{use.name}' is of kind {kind}. Name a message of kind {wanted}."
        elif coarse.model != message.model:
            yield (
                f"{where}.{use.key}: '{use.name}' is a message of model '{coarse.model}', not of '{message.model}'. "
                "Refine a message of the same model."
            )


def _faithfulness_faults(where: str, study: Study, row: CertificateSpec) -> Iterator[str]:
    """Yield a line if a certificate compares predictions with those of a model that has no hash of its own."""
    if not row.bounds.faithfulness:
        return
    name = study.messages[row.message].model
    model = study.models[name]
    if model.kind in ("pretrained", "trained") and getattr(model, "parameterization", None) is None:
        return
    if model.kind == "trained" and model.parameterization.kind == "dense":
        return
    yield (
        f"{where}.bounds.faithfulness: predictions are compared with those of a dense network, trained or pretrained, "
        f"and '{name}' is none. Leave it out."
    )


def _centre_faults(where: str, study: Study, row: CertificateSpec) -> Iterator[str]:
    """Yield a line if a certificate wants cross-entropies that its scores cannot hold."""
    if not row.bounds.centre_order:
        return
    name, corpus = study.messages[row.message].model, study.corpora[row.corpus]
    if study.models[name].kind not in ("trained", "pretrained"):
        yield f"{where}.bounds.centre_order: is for networks, and '{name}' is none. Leave it out."
    if corpus.source.kind == "reference":
        yield f"{where}.bounds.centre_order: n-grams cannot read '{row.corpus}', a corpus by reference. Leave it out."
    if (corpus.tokenizer.vocabulary_size or 0) > LARGEST_CENTRED_VOCABULARY:
        yield (
            f"{where}.bounds.centre_order: is for at most {LARGEST_CENTRED_VOCABULARY} tokens, and corpus "
            f"'{row.corpus}' has {corpus.tokenizer.vocabulary_size}. Leave it out."
        )
    if compared_model(study, row.message) is not None:
        yield (
            f"{where}.bounds.centre_order: '{row.message}' is scored with a comparison (faithfulness) for another "
            "certificate, and not with both. Leave one of the two out."
        )
    scored = (row.corpus, row.evaluation, row.message)
    for other in study.certificates.values():
        order = other.bounds.centre_order
        if (other.corpus, other.evaluation, other.message) == scored and order and order > row.bounds.centre_order:
            yield (
                f"{where}.bounds.centre_order: another certificate of '{row.message}' by '{row.evaluation}' has order "
                f"{order}, and scores hold one. Give both the same."
            )
            break


def _certificate_faults(where: str, study: Study, row: CertificateSpec) -> Iterator[str]:
    yield from _window_faults(where, study, row)
    yield from _sample_faults(where, study, row)
    size = study.corpora[row.corpus].tokenizer.vocabulary_size
    for k in row.bounds.top_k:
        if size is not None and k >= size:
            yield (
                f"{where}.bounds.top_k: {k} guesses among the {size} tokens of corpus '{row.corpus}' never miss. Leave "
                f"{k} out."
            )
    for place, name in enumerate(row.messages):
        finer = [other for other in row.messages[:place] if coarse_message(study, other) == name]
        if finer:
            yield f"{where}.chain: '{finer[0]}' refines '{name}', which must stand before it. Name '{name}' first."
    declared = study.corpora[row.corpus].source.labels
    for name in row.bounds.subsets:
        if name not in declared:
            yield (
                f"{where}.bounds.subsets: corpus '{row.corpus}' has no label '{name}', only "
                f"{', '.join(declared) or 'none at all'}. Sources of kind jsonl, parquet and huggingface take 'labels'."
            )
    models = {name: study.models[study.messages[name].model] for name in row.messages}
    online = {name: model for name, model in models.items() if model.kind == "online"}
    for name, reference in online.items():
        if size is not None and size > reference.vocabulary_size:
            yield (
                f"{where}: '{name}' predicts {reference.vocabulary_size} tokens, and corpus '{row.corpus}' has {size}. "
                f"Name one with predictor: ngrams and vocabulary_size: {size}."
            )
    yield from _faithfulness_faults(where, study, row)
    yield from _centre_faults(where, study, row)
    by_unit = [bound for bound in row.bounds.bounds if bound.unit]
    if online and by_unit:
        yield (
            f"{where}.bounds: '{by_unit[0]}' needs losses that are independent from one of the {by_unit[0].unit} to "
            f"the next, but '{next(iter(online))}' learns along the corpus. Leave it out."
        )
    if online and row.prior == "held_out":
        yield (
            f"{where}.prior: '{next(iter(online))}' learns along the corpus, so it is not held out. Its message is a "
            "header of some bytes: leave out 'prior'."
        )
        return
    if row.prior == "held_out":
        if row.corpus in training_corpora(study, row):
            yield (
                f"{where}.prior: a model of this certificate was trained on corpus '{row.corpus}' itself, so it is not "
                "held out. Certify it on another corpus, or with prior: message."
            )
        return
    if row.corpus in base_corpora(study, row):
        yield (
            f"{where}: a base of its messages was trained on corpus '{row.corpus}' itself, so it "
            "was not fixed beforehand. Certify on another corpus, or name another base."
        )
    for name in row.messages:
        model = study.models[study.messages[name].model]
        if model.kind == "pretrained" and model.package in _UNKNOWN_DATA:
            yield (
                f"{where}.prior: model '{study.messages[name].model}' of package '{model.package}' was trained on data "
                "that are not known, so no certificate about its training data can be made. Certify it with prior: "
                "held_out, which states the assumption, or fine-tune it and certify the fine-tuned model."
            )


def _window_faults(where: str, study: Study, row: CertificateSpec) -> Iterator[str]:
    """Yield a line if the certified model cannot see what the evaluation shows, or sees more."""
    name, evaluation = study.messages[row.message].model, study.evaluations[row.evaluation]
    model: ModelSpec = study.models[name]
    if model.kind == "finetuned":
        model = study.models[model.base]
    seen = evaluation.seen_tokens
    if model.kind == "trained" and seen > model.architecture.context:
        yield (
            f"{where}.evaluation: '{row.evaluation}' has windows of {seen} tokens, but model '{name}' has "
            f"{model.architecture.context} positions. Shorten the evaluation's context or lengthen the architecture's."
        )
    if model.kind == "online" and evaluation.visible_tokens is not None:
        yield (
            f"{where}.evaluation: '{row.evaluation}' limits what is seen, but model '{name}' learns from all that came "
            "before. Use an evaluation without 'visible_tokens'."
        )
    if model.kind == "markov" and evaluation.visible_tokens is not None and model.order > seen:
        yield (
            f"{where}.evaluation: '{row.evaluation}' shows {seen} tokens, but model '{name}' is a chain of order "
            f"{model.order}. Show as many, or lower the order."
        )


def _sample_faults(where: str, study: Study, row: CertificateSpec) -> Iterator[str]:
    """Yield a line for everything that needs every token scored, if only a sample is scored."""
    if study.evaluations[row.evaluation].sample_tokens is None:
        return
    remedy = f"needs every token scored, but evaluation '{row.evaluation}' draws a sample. Use one with"
    used = [bound for bound in row.bounds.bounds if not bound.by_token]
    if used:
        yield f"{where}: bound '{used[0]}' {remedy} sample_tokens: null."
    if row.bounds.subsets:
        yield f"{where}.bounds.subsets: it {remedy} sample_tokens: null."


def _sharing_faults(study: Study) -> Iterator[str]:
    """Yield a line for every sample that more certificates share than they pay for."""
    samples: dict[tuple[object, ...], list[str]] = {}
    for name, row in study.certificates.items():
        if (
            row.prior == "held_out"
        ):  # about one model named beforehand: no best of several is claimed, and none paid for
            continue
        plan = study.evaluations[row.evaluation]
        if plan.sample_tokens is not None or study.corpora[row.corpus].source.kind == "reference":
            # What the draws and their blocks depend on; the number of jobs and the arithmetic do not matter.
            windows = (plan.context, plan.stride or plan.context, plan.visible_tokens)
            parts = (plan.sample_tokens, plan.blocks_per_document, plan.seed)
            samples.setdefault((row.corpus, *parts, *windows), []).append(name)
    for names in samples.values():
        paid = {name: study.certificates[name].bounds.certificates_per_sample for name in names}
        if short := [name for name in names if paid[name] < len(names)]:
            which = f"'{short[0]}'" + (f" and {len(short) - 1} others" if len(short) > 1 else "")
            row = study.certificates[short[0]]
            plan = study.evaluations[row.evaluation]
            yield (
                f"certificates.{short[0]}.bounds.certificates_per_sample: {len(names)} certificates share the sample "
                f"that evaluation '{row.evaluation}' draws of corpus '{row.corpus}', but {which} would pay for "
                f"{paid[short[0]]}. Set it to {len(names)} for each"
                + (", or score every token (sample_tokens: null)." if plan.sample_tokens is not None else ".")
            )
