"""Functions of a study and of names, as functions of Snakemake's wildcards: they connect the rules to the library."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tokenbounds.config.base import Section
from tokenbounds.config.resources import Inputs
from tokenbounds.config.rows import row_json
from tokenbounds.config.study import Study
from tokenbounds.config.text_tasks import TextTask


class Wildcards(Protocol):
    """The wildcards of a job, by name."""

    def __getitem__(self, name: str) -> str: ...


@dataclass(frozen=True)
class Functions:
    """Makes functions of wildcards for one study."""

    study: Study

    def of(self, function: Callable[..., Any]) -> Callable[[Wildcards], Any]:
        """`function` of the study and of names, each of which is the wildcard named like the parameter."""
        names = list(inspect.signature(function).parameters)[1:]
        return lambda wildcards: function(self.study, *(wildcards[name] for name in names))

    def row(self, section: Section, wildcard: str) -> Callable[[Wildcards], str]:
        """The row of a section that a wildcard names, as JSON."""
        return lambda wildcards: row_json(self.study.section(section)[wildcards[wildcard]])

    def amount(self, function: Callable[..., float]) -> Callable[..., int]:
        """A resource: `function` of the study, of names and of the job's inputs, times the number of the attempt."""
        names = list(inspect.signature(function).parameters)[1:-1]

        def asked_for(wildcards: Wildcards, input: Mapping[str, Any], attempt: int) -> int:
            files = {name: (one,) if isinstance(one, str) else tuple(one) for name, one in input.items()}
            return int(function(self.study, *(wildcards[name] for name in names), Inputs(files)) * attempt)

        return asked_for

    def models(self, kind: str) -> str:
        """A regular expression for the names of the study's models of one kind."""
        return one_of(name for name, model in self.study.models.items() if model.kind == kind)

    def tasks(self, *, of_text: bool) -> str:
        """A regular expression for the names of the study's tasks of models of text, or of antibodies."""
        return one_of(name for name, task in self.study.tasks.items() if isinstance(task, TextTask) == of_text)


def one_of(names: Iterable[str]) -> str:
    """A regular expression that matches exactly `names`; with no names it matches nothing."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)"
