"""Files that a study reads from outside its results: of sources and local tokenizers, checkpoints, tables of tasks.

They are inputs of the rules, so that editing one repeats what depends on it. A hash of them is an input too, because a
file may be replaced by an older one, or by one of the same age.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tokenbounds.config import Study
from tokenbounds.corpus.source_files import fingerprint, source_files, tokenizer_files
from tokenbounds.errors import CorpusError, TokenboundsError
from tokenbounds.models.pretrained.files import checkpoint_files
from tokenbounds.tasks.questions import question_files
from tokenbounds.tasks.tables import affinity_files


@dataclass(frozen=True)
class Files:
    """Files of one row."""

    paths: tuple[Path, ...]

    @property
    def inputs(self) -> list[str]:
        """Those whose names Snakemake takes literally; the others count by the fingerprint alone."""
        return [str(path) for path in self.paths if not re.search(r"[{}<>]", str(path))]

    @property
    def fingerprint(self) -> str:
        """Hash of the files' names, sizes, beginnings and ends."""
        return fingerprint(self.paths)


@dataclass(frozen=True)
class ExternalFiles:
    """Finds a study's files, those of each row once.

    Attributes
    ----------
    study
        The study.
    dry_run
        Go on without files that are missing, and say so on stderr: jobs are listed as if they were there.
    """

    study: Study
    dry_run: bool = False
    _found: dict[str, Files] = field(default_factory=dict, init=False, repr=False, compare=False)

    def corpus(self, name: str) -> Files:
        """Files of a corpus's source and of its tokenizer; none for what is not made of local files."""
        row = self.study.corpora[name]
        return self._once(
            f"corpora.{name}.source", lambda: [*source_files(row.source), *tokenizer_files(row.tokenizer)]
        )

    def checkpoint(self, model: str) -> Files:
        """Files of a pretrained model in a folder; none for one in a package or on the hub."""
        row = self.study.models[model]
        return self._once(f"models.{model}", lambda: checkpoint_files(row) if row.kind == "pretrained" else [])

    def tables(self, task: str) -> Files:
        """Tables or files of questions that a task reads; none if it reads a corpus."""
        row = self.study.tasks[task]
        if row.kind == "zero_shot":
            return self._once(f"tasks.{task}.questions.paths", lambda: question_files(row.questions))
        return self._once(f"tasks.{task}.paths", lambda: affinity_files(row) if row.kind == "affinity" else [])

    def find_all(self) -> None:
        """Find the files of all sources and tasks.

        Raises
        ------
        TokenboundsError
            If a path matches no file; the message names the key.
        """
        for corpus in self.study.corpora:
            self.corpus(corpus)
        for task in self.study.tasks:
            self.tables(task)

    def _once(self, key: str, find: Callable[[], Iterable[Path]]) -> Files:
        if key not in self._found:
            try:
                self._found[key] = Files(tuple(dict.fromkeys(find())))
            except (TokenboundsError, OSError, ValueError) as error:  # the last two of names that no file can have
                if not self.dry_run:
                    kind = type(error) if isinstance(error, TokenboundsError) else CorpusError
                    raise kind(f"{key}: {error}") from None
                print(f"{key}: {error} Its jobs are listed as if it were there.", file=sys.stderr)
                self._found[key] = Files(())
        return self._found[key]


def is_dry_run(arguments: Iterable[str]) -> bool:
    """Whether Snakemake's arguments ask for a dry run; Snakemake itself knows it only once all rules are read."""
    return any(re.fullmatch(r"--dry-?run|-[a-zA-Z]*n[a-zA-Z]*", argument) for argument in arguments)
