"""One task of antibody models for one message, from files to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tokenbounds.config import AntibodyTask, RecoveryTask
from tokenbounds.errors import MessageError, ModelError, TokenboundsError
from tokenbounds.files import atomic_path, sha256_file
from tokenbounds.messages.container import read_message
from tokenbounds.messages.counted import decode_counted
from tokenbounds.tasks.affinity import score_variants
from tokenbounds.tasks.recovery import answer_questions, draw_questions
from tokenbounds.tasks.tables import affinity_files, read_variants

SCHEMA_VERSION = 1


def run_task(task: AntibodyTask, message: Path, out: Path, *, corpus: Path | None = None) -> pl.DataFrame:
    """Decode a message, test its model on a task, and write its answers.

    Parameters
    ----------
    task
        The task's row.
    message
        The message.
    out
        Parquet: `recovery.SCHEMA` or `affinity.SCHEMA`, with hashes of what it was made from as metadata.
    corpus
        Folder of the corpus of a recovery task.

    Raises
    ------
    TokenboundsError
        If a file cannot be read, or the model reads no antibodies.
    """
    predictor = _decode(message)
    metadata = {"schema_version": str(SCHEMA_VERSION), "message_sha256": sha256_file(message)}
    if isinstance(task, RecoveryTask):
        if corpus is None:
            raise TokenboundsError("a recovery task needs a corpus. Name its folder.")
        metadata["manifest_sha256"] = sha256_file(corpus / "manifest.json")
        frame = answer_questions(predictor, draw_questions(corpus, task), task.species)
    else:
        metadata |= {f"sha256 {path.name}": sha256_file(path) for path in affinity_files(task)}
        frame = score_variants(predictor, read_variants(task), task.species)
    with atomic_path(out) as temporary:
        frame.write_parquet(temporary, metadata=metadata)
    return frame


def _decode(path: Path) -> Any:
    """A message's predictor; torch is loaded for a network alone."""
    try:
        counted = decode_counted(read_message(path))
    except (MessageError, ModelError) as error:
        raise MessageError(f"{path}: {error}") from error
    if counted is not None:
        return counted
    from tokenbounds.messages.decode import decode_message

    return decode_message(path)
