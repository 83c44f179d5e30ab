"""Held-out models and bases: nothing is paid for what cannot depend on the corpus (docs/bounds.md, "Other priors").

What a program can check is that no document of the corpus is, byte for byte or token for token, a document of a
model's training corpus. Everything beyond that is an assumption, and the certificate says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenbounds.certificates.document_hashes import DocumentHashes, read_document_hashes
from tokenbounds.corpus.manifest import MANIFEST_NAME, Manifest, read_manifest
from tokenbounds.errors import CertificateError
from tokenbounds.files import sha256_file


@dataclass(frozen=True)
class CorpusEvidence:
    """A corpus by its manifest, which names every other file by hash."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str

    @classmethod
    def open(cls, folder: Path) -> CorpusEvidence:
        """Read and hash the manifest in a corpus's folder."""
        path = folder / MANIFEST_NAME
        return cls(folder, read_manifest(path), sha256_file(path))

    @property
    def manifest_path(self) -> Path:
        """The manifest's file."""
        return self.folder / MANIFEST_NAME


@dataclass(frozen=True)
class Prior:
    """Whether messages are paid for, and which corpora models were trained on.

    Attributes
    ----------
    held_out
        Whether no model of the certificate saw the corpus, so that no message is paid for.
    trained_on
        Corpora that held-out models, or bases, were trained on. They share no document with the certified one.
    because
        Why held-out models cannot depend on the corpus, as its author states it.
    """

    held_out: bool
    trained_on: tuple[CorpusEvidence, ...] = ()
    because: str = ""


def compare_documents(
    corpus: CorpusEvidence, held_out: tuple[Path, ...] | None, base_corpora: tuple[Path, ...] = ()
) -> Prior:
    """A certificate's prior, after comparing documents (docs/bounds.md, "Other priors").

    Parameters
    ----------
    corpus
        The certified corpus.
    held_out
        Folders of the corpora that the models were trained on; None if messages are paid for.
    base_corpora
        Unless held out: folders of the corpora that bases were trained on, over which messages are fine-tuned.

    Raises
    ------
    CertificateError
        If a training corpus shares a document with the certified one, or a table of documents is damaged.
    """
    if held_out is None:
        consequence = "the base was not fixed before the corpus. Remove them from one corpus, or name another base."
    else:
        consequence = "the model is not held out. Remove them from one corpus, or certify with prior: message."
    trained_on = tuple(CorpusEvidence.open(folder) for folder in (base_corpora if held_out is None else held_out))
    if trained_on:
        own = read_document_hashes(corpus.folder, corpus.manifest)
    for other in trained_on:
        hashes = read_document_hashes(other.folder, other.manifest)
        same = other.manifest.tokenizer.sha256 == corpus.manifest.tokenizer.sha256
        if shared := _describe_shared(own, hashes, same_tokenizer=same):
            raise CertificateError(
                f"{corpus.folder} and {other.folder}, on which a model was trained, share {shared}: {consequence}"
            )
    return Prior(held_out is not None, trained_on)


def _describe_shared(own: DocumentHashes, other: DocumentHashes, *, same_tokenizer: bool) -> str:
    """How many documents two corpora share, in words; nothing if none."""
    for what, one, two in (("text", own.texts, other.texts), ("tokens", own.tokens, other.tokens)):
        if one is None or two is None or (what == "tokens" and not same_tokenizer):
            continue
        shared = np.intersect1d(one, two)
        if shared.size:
            return f"{shared.size} documents (the first by its {what} has SHA-256 {bytes(shared[0]).hex()[:16]}…)"
    return ""
