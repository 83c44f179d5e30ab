"""Held-out models and bases: nothing is paid for what cannot depend on the corpus (docs/bounds.md, "Other priors").

What a program can check is that no document of the corpus is, byte for byte, a document of a model's training corpus.
Everything beyond that is an assumption, and the certificate says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.corpus.manifest import MANIFEST_NAME, Manifest, read_manifest
from tokenbounds.errors import CertificateError
from tokenbounds.files import sha256_file

_FREE_DOCUMENTS = 1 << 20  # rows of a table; beyond that many, each must take at least a byte of the file


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

    def document_hashes(self) -> npt.NDArray[np.void]:
        """SHA-256 of every distinct document that is not empty [documents], 32 bytes each.

        Raises
        ------
        CertificateError
            If the table of documents is missing, damaged or not the manifest's.
        """
        entry = self.manifest.documents_file
        path = self.folder / entry.file
        if not path.is_file() or sha256_file(path) != entry.sha256:
            raise CertificateError(f"{path} is missing or differs from its manifest. Tokenize the corpus again.")
        hashes = [b""]
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                rows = sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
                if rows != self.manifest.documents or rows > _FREE_DOCUMENTS + path.stat().st_size:
                    raise CertificateError(
                        f"{path} has {rows} rows, more than its size and its manifest allow or fewer. Tokenize the "
                        "corpus again."
                    )
                for batch in file.iter_batches(columns=["sha256", "bytes"]):
                    used = batch.filter(pa.array(batch["bytes"].to_numpy() > 0))
                    hashes.append(b"".join(bytes.fromhex(text) for text in used["sha256"].to_pylist()))
            return np.unique(np.frombuffer(b"".join(hashes), dtype="V32"))
        except (OSError, pa.ArrowException, ValueError, TypeError) as error:
            raise CertificateError(f"{path} cannot be read ({error}). Tokenize the corpus again.") from error


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
    own = corpus.document_hashes() if trained_on else np.empty(0, dtype="V32")
    for other in trained_on:
        shared = np.intersect1d(own, other.document_hashes())
        if shared.size:
            raise CertificateError(
                f"{corpus.folder} and {other.folder}, on which a model was trained, share {shared.size} documents (the "
                f"first has SHA-256 {bytes(shared[0]).hex()[:16]}…): {consequence}"
            )
    return Prior(held_out is not None, trained_on)
