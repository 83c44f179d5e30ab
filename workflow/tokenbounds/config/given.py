"""Models and messages that are decoded given others: which ones, and what can be wrong with that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokenbounds.config.quantizers import QUANTIZERS

if TYPE_CHECKING:
    from tokenbounds.config import MessageSpec, Study


def given_model(study: Study, message: str) -> str | None:
    """Name of the model that a message is decoded given: a fine-tune's base, or what a reference names; else None."""
    row = study.messages[message]
    model = study.models.get(row.model)
    if model is not None and model.kind == "finetuned":
        return model.base
    return row.model if row.quantizer.models == "fixed" else None


def given_message(study: Study, message: str) -> str | None:
    """Name of the coarse message that a message refines; None if it refines none."""
    return study.messages[message].quantizer.needs().coarse


def given_faults(study: Study) -> Iterator[str]:
    """Yield a line for every model or message that cannot be decoded given what it names."""
    for name, model in study.models.items():
        if model.kind == "finetuned" and model.base in study.models and not _is_fixed(study, model.base):
            yield (
                f"  models.{name}.base: '{model.base}' is no pretrained model and none trained densely. Only such a "
                "model can be a base."
            )
    for name, message in study.messages.items():
        if message.quantizer.models == "fixed" and message.model in study.models:
            yield from _reference_faults(f"  messages.{name}", study, message)
            yield from _smoothing_faults(f"  messages.{name}", message)
        if message.quantizer.needs().coarse is not None:
            yield from _refinement_faults(f"  messages.{name}", study, message)


def _is_fixed(study: Study, model: str) -> bool:
    """Whether a model can be named by its hash: its values are its own, one by one."""
    row = study.models[model]
    return row.kind == "pretrained" or (row.kind == "trained" and row.parameterization.kind == "dense")


def _reference_faults(where: str, study: Study, message: MessageSpec) -> Iterator[str]:
    if not _is_fixed(study, message.model):
        yield (
            f"{where}.quantizer: model '{message.model}' cannot be named by hash: it is no pretrained model and none "
            "trained densely. Use another quantizer."
        )


def _smoothing_faults(where: str, message: MessageSpec) -> Iterator[str]:
    if message.smoothing_head is not None:
        yield f"{where}.smoothing_head: a reference holds a hash and nothing else. Leave it out."


def _refinement_faults(where: str, study: Study, message: MessageSpec) -> Iterator[str]:
    name = message.quantizer.needs().coarse or ""
    coarse = study.messages.get(name)
    if coarse is not None and not coarse.quantizer.refinable:
        wanted = " or ".join(kind for kind, row in QUANTIZERS.items() if row.refinable)
        yield f"{where}.quantizer.of: '{name}' is of kind {coarse.quantizer.kind}. Name a message of kind {wanted}."
    elif coarse is not None and coarse.model != message.model:
        yield (
            f"{where}.quantizer.of: '{name}' is a message of model '{coarse.model}', not of '{message.model}'. Refine "
            "a message of the same model."
        )
    if message.coder != "adaptive":
        yield f"{where}.coder: a refinement is coded given the coarse codes, which only the adaptive coder can."
