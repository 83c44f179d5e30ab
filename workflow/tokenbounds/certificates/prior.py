"""Held-out models and bases: nothing is paid for what cannot depend on the corpus (docs/bounds.md, "Other priors").

What a program can check is that no document of the corpus is, byte for byte, a document of a model's training corpus.
Everything beyond is an assumption, and the certificate says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.corpus.manifest import MANIFEST_NAME, read_manifest
from tokenbounds.errors import CertificateError
from tokenbounds.files import sha256_file


def prior_record(
    held_out: tuple[Path, ...] | None, corpus: Path, folder: Path, base_corpora: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """What a certificate says about its prior, after comparing documents (docs/bounds.md, "Other priors").

    Parameters
    ----------
    held_out
        Folders of the corpora that the models were trained on; None if messages are paid for.
    corpus
        Folder of the certified corpus.
    folder
        The certificate's folder: recorded paths are relative to it.
    base_corpora
        Unless held out: folders of the corpora that bases were trained on, over which messages are fine-tuned.

    Raises
    ------
    CertificateError
        If a training corpus shares a document with the certified one, or a table of documents is damaged.
    """
    others = base_corpora if held_out is None else held_out
    own = _document_hashes(corpus) if others else None
    trained_on = []
    for other in others:
        assert own is not None
        shared = np.intersect1d(own, _document_hashes(other))
        if shared.size:
            raise CertificateError(
                f"{corpus} and {other}, on which a model was trained, share {shared.size} documents (the first has "
                f"SHA-256 {bytes(shared[0]).hex()[:16]}…): {_consequence(held_out)}"
            )
        trained_on.append(_training_record(other, folder))
    return {"kind": "message" if held_out is None else "held_out", "trained_on": trained_on}


def _consequence(held_out: tuple[Path, ...] | None) -> str:
    if held_out is None:
        return "the base was not fixed before the corpus. Remove them from one corpus, or name another base."
    return "the model is not held out. Remove them from one corpus, or certify with prior: message."


def _training_record(corpus: Path, folder: Path) -> dict[str, Any]:
    path = corpus / MANIFEST_NAME
    manifest = read_manifest(path)
    documents = corpus / manifest.documents_file.file
    return {
        "corpus": manifest.corpus,
        "file": _relative(path, folder),
        "sha256": sha256_file(path),
        "documents_file": {"file": _relative(documents, folder), "sha256": manifest.documents_file.sha256},
    }


def _document_hashes(corpus: Path) -> npt.NDArray[np.void]:
    """SHA-256 of every document that is not empty, 32 bytes each, once each."""
    manifest = read_manifest(corpus / MANIFEST_NAME)
    path = corpus / manifest.documents_file.file
    if not path.is_file() or sha256_file(path) != manifest.documents_file.sha256:
        raise CertificateError(f"{path} is missing or differs from its manifest. Tokenize the corpus again.")
    hashes = [b""]
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["sha256", "bytes"]):
                used = batch.filter(pa.array(batch["bytes"].to_numpy() > 0))
                hashes.append(b"".join(bytes.fromhex(text) for text in used["sha256"].to_pylist()))
        return np.unique(np.frombuffer(b"".join(hashes), dtype="V32"))
    except (OSError, pa.ArrowException, ValueError, TypeError) as error:
        raise CertificateError(f"{path} cannot be read ({error}). Tokenize the corpus again.") from error


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
