"""One task of models of text for one message, from files to a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tokenbounds.config import (
    GenerationTask,
    MemorizationTask,
    QuestionFiles,
    SamplesTask,
    TaskSpec,
    TokenizerSpec,
    ZeroShotTask,
)
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.tokenizers import Tokenizer, load_tokenizer
from tokenbounds.errors import TokenboundsError
from tokenbounds.files import atomic_path, sha256_file
from tokenbounds.messages.container import read_message
from tokenbounds.messages.decode import decode_message
from tokenbounds.messages.side_information import SideInformation, find_coarse, model_places
from tokenbounds.models.base import is_finetuned, load_finetuned
from tokenbounds.models.checkpoint import load_checkpoint
from tokenbounds.tasks.generation import answer_prompts, draw_prompts
from tokenbounds.tasks.memorization import reproduce
from tokenbounds.tasks.questions import question_files, read_questions
from tokenbounds.tasks.samples import sample_beside
from tokenbounds.tasks.zero_shot import answer_questions

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Materials:
    """What a message is measured with.

    Attributes
    ----------
    message
        Its file.
    side_information
        Where to look for what it names by hash.
    tokenizers
        That of the model as `model`; that of the corpus as `corpus`.
    corpus
        Folder of the corpus whose documents are asked.
    questions
        File of zero-shot questions that were drawn from a corpus.
    original
        Checkpoint folder of the model before it was encoded.
    """

    message: Path
    side_information: tuple[Path, ...]
    tokenizers: Mapping[str, TokenizerSpec]
    corpus: Path | None = None
    questions: Path | None = None
    original: Path | None = None


def measure_task(task: TaskSpec, materials: Materials, out: Path) -> pl.DataFrame:
    """Decode a message, let its model answer a task's questions, and write the answers.

    Parameters
    ----------
    task
        The task's row.
    materials
        Message, corpus and tokenizers.
    out
        Parquet: the `SCHEMA` of `generation`, `memorization`, `samples` or `zero_shot`. Its metadata hold `paid_bits`,
        the size of the message and of what it refines, and the hashes of message and manifest.

    Raises
    ------
    TokenboundsError
        If a file cannot be read, or the model does not fit the task.
    """
    predictor = decode_message(materials.message, materials.side_information)
    tokenizer = load_tokenizer(materials.tokenizers["model"])
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "paid_bits": str(paid_bits(materials.message, materials.side_information)),
        "message_sha256": sha256_file(materials.message),
    }
    if materials.corpus is not None:
        metadata["manifest_sha256"] = sha256_file(materials.corpus / "manifest.json")
    if isinstance(task, GenerationTask):
        prompts = draw_prompts(*_drawn_from(materials), task)
        frame = answer_prompts(predictor, prompts, tokenizer, task)
    elif isinstance(task, MemorizationTask):
        frame = reproduce(predictor, *_drawn_from(materials), task)
    elif isinstance(task, SamplesTask):
        frame = sample_beside(predictor, _original(materials), tokenizer, task)
    elif isinstance(task, ZeroShotTask):
        source = _questions(task, materials)
        metadata |= {f"sha256 {path.name}": sha256_file(path) for path in question_files(source)}
        frame = answer_questions(predictor, read_questions(source), tokenizer)
    else:
        raise TokenboundsError(f"a task of kind {task.kind} is not one for models of text.")
    with atomic_path(out) as temporary:
        frame.write_parquet(temporary, metadata=metadata)
    return frame


def _questions(task: ZeroShotTask, materials: Materials) -> QuestionFiles:
    """The files of a task's questions: its own, or the one into which they were drawn."""
    if isinstance(task.questions, QuestionFiles):
        return task.questions
    if materials.questions is None:
        raise TokenboundsError("these questions are drawn from a corpus. Name the file into which they were drawn.")
    return QuestionFiles("files", (str(materials.questions),))


def _original(materials: Materials) -> Any:
    """The model before it was encoded, if there is one to compare with."""
    if materials.original is None:
        return None
    if is_finetuned(materials.original):
        return load_finetuned(materials.original, model_places(materials.side_information))[0]
    return load_checkpoint(materials.original)[0]


def _drawn_from(materials: Materials) -> tuple[Corpus, Tokenizer]:
    """The corpus whose documents are asked, and its tokenizer."""
    if materials.corpus is None:
        raise TokenboundsError("a corpus's documents are asked. Name its folder.")
    return Corpus.open(materials.corpus, verify=True), load_tokenizer(materials.tokenizers["corpus"])


def paid_bits(message: Path, side_information: tuple[Path, ...] = ()) -> int:
    """Bits of a message, and of the coarse message that it refines if it does; a base costs nothing."""
    coarse = SideInformation.of(read_message(message)).coarse
    files = [message] if coarse is None else [message, find_coarse(coarse, side_information)]
    return 8 * sum(path.stat().st_size for path in files)
