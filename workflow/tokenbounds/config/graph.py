"""The graph of a study: what rows depend on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tokenbounds.config.base import Section, references

if TYPE_CHECKING:
    from tokenbounds.config import CertificateSpec, Study


def reachable(study: Study, section: Section, names: Iterable[str]) -> Iterator[tuple[Section, str]]:
    """Yield rows and all that they depend on through references, each once; corpora are the ends.

    What a corpus's tokenizer was trained on is not followed: it shares no document with the corpus.
    """
    waiting: list[tuple[Section, str]] = [(section, name) for name in reversed(list(names))]
    seen: set[tuple[Section, str]] = set()
    while waiting:
        step = waiting.pop()
        if step in seen:
            continue
        seen.add(step)
        yield step
        if step[0] != "corpora":
            uses = list(references(study.section(step[0])[step[1]]))
            waiting.extend((use.section, use.name) for use in reversed(uses))


def training_corpora(study: Study, row: CertificateSpec) -> list[str]:
    """Names of the corpora that a certificate's models (and its chain's) were trained, counted or calibrated on."""
    return [name for section, name in reachable(study, "messages", row.messages) if section == "corpora"]


def base_corpora(study: Study, row: CertificateSpec) -> list[str]:
    """Names of the corpora that the bases of a certificate's messages were trained on."""
    bases = [base for name in row.messages if (base := base_model(study, name)) is not None]
    return [name for section, name in reachable(study, "models", bases) if section == "corpora"]


def base_model(study: Study, message: str) -> str | None:
    """Name of the model that is the base of a message: of a fine-tune, or what a reference names; else None."""
    row = study.messages[message]
    model = study.models[row.model]
    if model.kind == "finetuned":
        return model.base
    return row.model if row.quantizer.models == "fixed" else None


def coarse_message(study: Study, message: str) -> str | None:
    """Name of the coarse message that a message refines; None if it refines none."""
    return study.messages[message].quantizer.needs().coarse
