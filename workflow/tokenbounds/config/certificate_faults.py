"""What can be wrong with a study's certificates, beyond names that refer to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.config.given import given_model

if TYPE_CHECKING:
    from tokenbounds.config import CertificateSpec, Study

# Tokenizers of corpora whose tokens have labels.
LABELLED = ("antibody", "iglm")
# Packages whose models were trained on data that their authors describe but do not name.
_UNKNOWN_DATA = ("iglm",)


def certificate_faults(study: Study) -> Iterator[str]:
    """Yield a line for every certificate whose settings cannot work together."""
    for name, row in study.certificates.items():
        yield from _chain_faults(f"  certificates.{name}", row)
        yield from _unit_faults(f"  certificates.{name}", study, row)
        yield from _subset_faults(f"  certificates.{name}.bounds.subsets", study, row)
        if row.prior == "held_out":
            yield from _held_out_faults(f"  certificates.{name}", study, row)
        else:
            yield from _unknown_data_faults(f"  certificates.{name}", study, row)
            yield from _given_faults(f"  certificates.{name}", study, row)


def training_corpora(study: Study, row: CertificateSpec) -> list[str]:
    """Names of the corpora that a certificate's models (and its chain's) were trained, counted or calibrated on."""
    found = dict.fromkeys(_corpora_of(study, [study.messages[name].model for name in _messages(study, row)]))
    for name in (*row.chain, row.message):
        if name not in study.messages:
            continue
        needs = study.messages[name].quantizer.needs()
        if needs.target is not None and needs.target.corpus is not None:
            found[needs.target.corpus] = None
        if needs.calibration in study.calibrations:
            found[study.calibrations[needs.calibration].corpus] = None
    return list(found)


def given_corpora(study: Study, row: CertificateSpec) -> list[str]:
    """Names of the corpora that models were trained on which the messages of a certificate are decoded given."""
    given = [given_model(study, name) for name in _messages(study, row)]
    return _corpora_of(study, [name for name in given if name is not None])


def _messages(study: Study, row: CertificateSpec) -> list[str]:
    """The messages of a certificate that the study has."""
    return [name for name in (*row.chain, row.message) if name in study.messages]


def _corpora_of(study: Study, models: list[str]) -> list[str]:
    """Corpora that models, or the bases below them, were trained on."""
    found: dict[str, None] = {}
    for model in models:
        seen: set[str] = set()
        while model in study.models and model not in seen:
            seen.add(model)
            corpus = getattr(study.models[model], "corpus", None)
            if corpus is not None:
                found[corpus] = None
            model = getattr(study.models[model], "base", None) or getattr(study.models[model], "start", None) or ""
    return list(found)


def _chain_faults(where: str, row: CertificateSpec) -> Iterator[str]:
    names = (*row.chain, row.message)
    if len(set(names)) != len(names):
        yield f"{where}.chain: a message appears twice. Name cheaper messages, each once, and not the certified one."
    used = [bound for bound in row.bounds.bounds if bound.uses_chain]
    if used and not row.chain:
        yield f"{where}: bound '{used[0]}' needs a 'chain' of cheaper messages. Name at least one."
    if row.chain and not used:
        yield f"{where}.chain: no bound uses it. Add 'telescoped' or 'mixture' to 'bounds.bounds', or drop the chain."


def _unit_faults(where: str, study: Study, row: CertificateSpec) -> Iterator[str]:
    used = [bound for bound in row.bounds.bounds if not bound.by_token]
    evaluation = study.evaluations.get(row.evaluation)
    if used and evaluation is not None and evaluation.sample_tokens is not None:
        yield (
            f"{where}: bound '{used[0]}' needs every token scored, but evaluation '{row.evaluation}' draws a sample. "
            "Use one with sample_tokens: null."
        )


def _subset_faults(where: str, study: Study, row: CertificateSpec) -> Iterator[str]:
    if not row.bounds.subsets:
        return
    if len(set(row.bounds.subsets)) != len(row.bounds.subsets):
        yield f"{where}: a column appears twice. Name each once."
    if not any(bound.fits_subsets for bound in row.bounds.bounds):
        fitting = ", ".join(bound for bound in BoundKind if bound.fits_subsets)
        yield f"{where}: none of its bounds can be stated for subsets. Add one of {fitting}."
    corpus = study.corpora.get(row.corpus)
    if corpus is not None and corpus.tokenizer.kind not in LABELLED:
        yield f"{where}: corpus '{row.corpus}' has no labels. Only antibody sources do (airr, oas, fasta, csv)."
    evaluation = study.evaluations.get(row.evaluation)
    if evaluation is not None and evaluation.sample_tokens is not None:
        yield (
            f"{where}: subsets need every token scored, but evaluation '{row.evaluation}' draws a sample. Use one with "
            "sample_tokens: null."
        )


def _held_out_faults(where: str, study: Study, row: CertificateSpec) -> Iterator[str]:
    if row.corpus in training_corpora(study, row):
        yield (
            f"{where}.prior: a model of this certificate was trained on corpus '{row.corpus}' itself, so it is not "
            "held out. Certify it on another corpus, or with prior: message."
        )


def _given_faults(where: str, study: Study, row: CertificateSpec) -> Iterator[str]:
    if row.corpus in given_corpora(study, row):
        yield (
            f"{where}: a model that its messages are decoded given was trained on corpus '{row.corpus}' itself, so it "
            "was not fixed before. Certify on another corpus, or name another base."
        )


def _unknown_data_faults(where: str, study: Study, row: CertificateSpec) -> Iterator[str]:
    """Models whose training data nobody can name may only be held out: then that is a stated assumption."""
    for message in (*row.chain, row.message):
        model = study.models.get(study.messages[message].model) if message in study.messages else None
        package = getattr(model, "package", None)
        if package in _UNKNOWN_DATA:
            yield (
                f"{where}.prior: model '{study.messages[message].model}' of package '{package}' was trained on data "
                "that are not known, so no certificate about its training data can be made. Certify it with prior: "
                "held_out, which states the assumption, or fine-tune it and certify the fine-tuned model."
            )
