"""Which documents a corpus holds, by digests of their texts and of their tokens.

The digest of a text is what the corpus's table of documents states; only someone who has the source can check it. The
digest of tokens is computed from the shards, and the table must agree. Where the shards of a training corpus are not
available, the table is trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.corpus.manifest import Manifest
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.repeats import RepeatCounter, Repeats
from tokenbounds.corpus.shards import TOKENS_SHA256, tokens_digest
from tokenbounds.errors import CertificateError
from tokenbounds.files import sha256_file
from tokenbounds.parquet_pages import check_pages

_FREE_DOCUMENTS = 1 << 20  # rows of a table; beyond that many, each must take at least a byte of the file


@dataclass(frozen=True)
class DocumentHashes:
    """Digests of a corpus's distinct documents that are not empty, 32 bytes each, sorted.

    Attributes
    ----------
    texts
        SHA-256 of their texts, as the table of documents states them.
    tokens
        SHA-256 of their tokens; None if neither shards nor table give them.
    from_shards
        Whether the shards were read, and agree with the table.
    """

    texts: npt.NDArray[np.void]
    tokens: npt.NDArray[np.void] | None
    from_shards: bool


def has_shards(folder: Path, manifest: Manifest) -> bool:
    """Whether a corpus's tokens are present: published training corpora may leave them out."""
    return all((folder / shard.file).is_file() for shard in manifest.shards)


def read_document_hashes(folder: Path, manifest: Manifest, *, verify: bool = True) -> DocumentHashes:
    """Read a corpus's table of documents, and its shards if they are there.

    Parameters
    ----------
    folder, manifest
        The corpus's.
    verify
        Whether to compare the shards with their hashes; not needed where that has been done.

    Raises
    ------
    CertificateError
        If the table is missing, damaged or not the manifest's, or contradicts a document's tokens.
    CorpusError
        If a shard is damaged.
    """
    path = _check_table(folder, manifest)
    corpus = Corpus.open(folder, verify=verify) if has_shards(folder, manifest) else None
    texts, tokens, first = list[bytes](), list[bytes](), 0
    try:
        for batch in _batches(path, manifest):
            stated = [bytes.fromhex(text) for text in batch["sha256"].to_pylist()]
            found = _stated_tokens(batch) if corpus is None else _compare(path, batch, first, corpus)
            texts += [stated[row] for row in np.flatnonzero(batch["bytes"].to_numpy())]
            tokens += [found[row] for row in np.flatnonzero(batch["tokens"].to_numpy()) if found]
            first += batch.num_rows
        return DocumentHashes(_unique(texts), _unique(tokens) if tokens else None, corpus is not None)
    except (OSError, pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise CertificateError(f"{path} cannot be read ({error}). Tokenize the corpus again.") from error


def count_repeats(folder: Path, manifest: Manifest) -> Repeats:
    """Documents that are equal to an earlier one by their tokens (by their texts, in tables of earlier versions).

    Raises
    ------
    CertificateError
        If the table of documents is missing, damaged or not the manifest's.
    """
    path, counter = _check_table(folder, manifest), RepeatCounter()
    try:
        for batch in _batches(path, manifest):
            digests = _stated_tokens(batch) or [bytes.fromhex(text) for text in batch["sha256"].to_pylist()]
            counter.add(digests, batch["tokens"].to_numpy())
        return counter.count()
    except (OSError, pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise CertificateError(f"{path} cannot be read ({error}). Tokenize the corpus again.") from error


def _check_table(folder: Path, manifest: Manifest) -> Path:
    entry = manifest.documents_file
    path = folder / entry.file
    if not path.is_file() or sha256_file(path) != entry.sha256:
        raise CertificateError(f"{path} is missing or differs from its manifest. Tokenize the corpus again.")
    return path


def _batches(path: Path, manifest: Manifest) -> Iterator[pa.RecordBatch]:
    """The rows of a table, which must be as many as its manifest says."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        rows = sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
        if rows != manifest.documents or rows > _FREE_DOCUMENTS + path.stat().st_size:
            raise CertificateError(
                f"{path} has {rows} rows, more than its size and its manifest allow or fewer. Tokenize the "
                "corpus again."
            )
        check_pages(path, CertificateError)
        stated = [name for name in (TOKENS_SHA256,) if name in file.schema_arrow.names]
        yield from file.iter_batches(columns=["tokens", "bytes", "sha256", *stated])


def _stated_tokens(batch: pa.RecordBatch) -> list[bytes]:
    """Digests of tokens that a table states; none in tables of earlier versions."""
    if TOKENS_SHA256 not in batch.schema.names:
        return []
    return [bytes.fromhex(text) for text in batch[TOKENS_SHA256].to_pylist()]


def _compare(path: Path, batch: pa.RecordBatch, first: int, corpus: Corpus) -> list[bytes]:
    """Digests of documents' tokens, by the shards; refuses rows of the table that differ."""
    lengths, stated = batch["tokens"].to_numpy(), _stated_tokens(batch)
    is_bytes = corpus.manifest.tokenizer.identity == "bytes"
    reference = corpus.manifest.reference  # its documents are cut, so that tokens need not be the whole text
    found = []
    for row in range(batch.num_rows):
        tokens = corpus.document(first + row)
        found.append(tokens_digest(tokens))
        differs = len(tokens) != lengths[row] or (stated and stated[row] != found[row])
        if (
            is_bytes and not differs and (reference is None or len(tokens) < reference.max_tokens)
        ):  # then tokens are the text
            text = tokens.astype(np.uint8).tobytes()
            differs = (len(text), hashlib.sha256(text).hexdigest()) != (
                batch["bytes"][row].as_py(),
                batch["sha256"][row].as_py(),
            )
        if differs:
            raise CertificateError(
                f"{path} does not tell what the shards hold: document {first + row} has other tokens. Tokenize the "
                "corpus again."
            )
    return found


def _unique(digests: list[bytes]) -> npt.NDArray[np.void]:
    return np.unique(np.frombuffer(b"".join(digests), dtype="V32"))
