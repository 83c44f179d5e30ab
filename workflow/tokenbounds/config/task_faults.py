"""What can be wrong with a study's tasks, beyond names that refer to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenbounds.config import AffinityTask, Study


def task_faults(study: Study) -> Iterator[str]:
    """Yield a line for every task whose settings cannot work together."""
    for name, task in study.tasks.items():
        if len(set(task.messages)) != len(task.messages):
            yield f"  tasks.{name}.messages: a message appears twice. Name each once."
        if task.kind == "affinity":
            yield from _affinity_faults(f"  tasks.{name}", task)
        elif task.corpus in study.corpora and study.corpora[task.corpus].tokenizer.kind != "antibody":
            yield (
                f"  tasks.{name}.corpus: sequences are drawn from a corpus of the tokenizer 'antibody', and "
                f"'{task.corpus}' has another. Name one with it; models of IgLM are asked in their own vocabulary."
            )


def _affinity_faults(where: str, task: AffinityTask) -> Iterator[str]:
    chains = (task.heavy, task.light)
    if (task.sequence is None) == (chains == (None, None)):
        yield f"{where}: give either 'sequence', or 'heavy' and 'light' or one of them."
