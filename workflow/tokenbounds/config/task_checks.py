"""What can be wrong with tasks, in terms of the user's keys: models that cannot be asked, or not of this corpus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokenbounds.config.graph import base_model, reachable, reading_corpus
from tokenbounds.config.text_tasks import TextTask

if TYPE_CHECKING:
    from tokenbounds.config import Study


def task_faults(study: Study) -> Iterator[str]:
    """Yield a line for every task whose models or corpus do not fit it; names refer to rows."""
    for name, task in study.tasks.items():
        if isinstance(task, TextTask):
            yield from _text_task_faults(name, study, task)
            continue
        if task.kind == "recovery" and study.corpora[task.corpus].tokenizer.kind != "antibody":
            yield (
                f"tasks.{name}.corpus: sequences are sampled from a corpus of the tokenizer 'antibody', and "
                f"'{task.corpus}' has another. Name one with it; models of IgLM are asked in their own vocabulary."
            )
        vocabularies = {message: _vocabulary(study, message) for message in task.messages}
        for message, (kind, corpus) in vocabularies.items():
            if kind not in (None, "antibody", "iglm"):
                yield (
                    f"tasks.{name}.messages: the model of '{message}' reads corpus '{corpus}', whose tokenizer is of "
                    f"kind {kind}. Name messages of models of the tokenizer 'antibody', or of IgLM."
                )
            elif kind == "iglm" and task.kind == "affinity" and task.sequence is not None:
                yield (
                    f"tasks.{name}.sequence: IgLM ('{message}') must be told which chain it reads. Name the column by "
                    "'heavy' or 'light'."
                )
        if task.species != "human" and all(kind == "antibody" for kind, _ in vocabularies.values()):
            yield f"tasks.{name}.species: none of its models is IgLM, and others are told no species. Leave it out."


def _text_task_faults(name: str, study: Study, task: TextTask) -> Iterator[str]:
    """Yield models that read no text, and those that are not what a generation task's prior says they are."""
    for message in task.messages:
        if study.models[study.messages[message].model].kind == "online":
            yield f"tasks.{name}.messages: '{message}' knows nothing before it reads a corpus. Name a model that does."
        elif reading_corpus(study, message) is None:
            yield (
                f"tasks.{name}.messages: the tokenizer of '{message}' is not known. Certify it on a corpus in its own "
                "tokens."
            )
        if task.kind != "generation":
            continue
        seen = [row for section, row in reachable(study, "messages", [message]) if section == "corpora"]
        base = base_model(study, message)
        fixed = [] if base is None else [row for section, row in reachable(study, "models", [base])]
        if task.prior == "held_out" and task.corpus in seen:
            yield (
                f"tasks.{name}.prior: '{message}' was trained on corpus '{task.corpus}' itself. Ask it prompts of "
                "another one, or pay for its bits with prior: message."
            )
        elif task.prior == "message" and task.corpus in fixed:
            yield (
                f"tasks.{name}.corpus: the base of '{message}' was trained on corpus '{task.corpus}' itself, so it was "
                "not fixed beforehand. Name another base, or another corpus."
            )


def _vocabulary(study: Study, message: str) -> tuple[str | None, str]:
    """The kind of tokenizer whose text a message's model reads, and the corpus that says so; None if unknown."""
    model = study.models[study.messages[message].model]
    if model.kind == "online":
        return "bytes", "any of bytes"
    if model.kind == "pretrained":
        return ("iglm" if model.package == "iglm" else None), ""
    return study.corpora[model.corpus].tokenizer.kind, model.corpus
