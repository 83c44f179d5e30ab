"""Shards of tokens: written as a stream from any source, read through memory maps.

A shard is an Arrow IPC stream file with the columns `document: int64` and `tokens: list<uint16|uint32>`. Documents
are numbered in the order of the source, and document i is in shard i modulo the number of shards.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.antibodies.counts import ReadingCounts
from tokenbounds.config import CorpusSpec, ReferenceSource, TransformersTokenizer
from tokenbounds.config.antibodies import SequenceSource
from tokenbounds.config.corpora import SCORE_COLUMNS
from tokenbounds.corpus.annotations import ANNOTATIONS_NAME, AnnotationWriter
from tokenbounds.corpus.antibodies import antibody_columns, refuse_other_chain
from tokenbounds.corpus.labels import DocumentLabels, LabelColumn
from tokenbounds.corpus.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    ShardEntry,
    TokenizerEntry,
    read_manifest,
)
from tokenbounds.corpus.pins import PINS_NAME, read_pins
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.reference import ReferenceEntry, reference_seed
from tokenbounds.corpus.repeats import RepeatCounter
from tokenbounds.corpus.sources import Document, describe_source, read_documents, source_licence
from tokenbounds.corpus.tokenizers import Tokenizer, load_tokenizer
from tokenbounds.errors import CorpusError
from tokenbounds.files import atomic_path, sha256_bytes, sha256_file, write_bytes, write_json

__all__ = ["Corpus", "Manifest", "read_manifest", "shard_name", "shard_schema", "tokenize_corpus"]

DOCUMENTS_NAME = "documents.parquet"
TOKENS_SHA256 = "tokens_sha256"
_TEMPORARY = (f".{DOCUMENTS_NAME}.*.tmp", f".{ANNOTATIONS_NAME}.*.tmp")
_BATCH_BYTES = 1 << 20
_BATCH_DOCUMENTS = 1024
_MAX_DOCUMENT_TOKENS = 2**31 - 1
_DOCUMENTS_SCHEMA = pa.schema(
    [
        pa.field("document", pa.int64()),
        pa.field("name", pa.string()),
        pa.field("tokens", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field(TOKENS_SHA256, pa.string()),
    ]
)


def tokens_digest(tokens: np.ndarray) -> bytes:
    """SHA-256 of a document's token ids, each as four bytes, the lowest first: the same for shards of any width."""
    return hashlib.sha256(tokens.astype("<u4").tobytes()).digest()


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:05d}.arrow"


def shard_schema(tokenizer: Tokenizer) -> pa.Schema:
    """Arrow schema of the shards a tokenizer fills; its metadata name the tokenizer."""
    token_type = pa.uint16() if tokenizer.vocabulary_size <= 1 << 16 else pa.uint32()
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "tokenizer": tokenizer.identity,
        "tokenizer_sha256": tokenizer.sha256,
        "vocabulary_size": str(tokenizer.vocabulary_size),
    }
    return pa.schema([pa.field("document", pa.int64()), pa.field("tokens", pa.list_(token_type))], metadata=metadata)


def tokenize_corpus(
    spec: CorpusSpec, name: str, directory: Path | str, *, exclude_overlap_with: Path | str | None = None
) -> Manifest:
    """Tokenize a corpus into `directory`: shards, the table of documents, and last the manifest.

    Memory does not grow with the corpus, except for 16 bytes per document (and 8 for each of the corpus in
    `exclude_overlap_with`).

    Parameters
    ----------
    spec : CorpusSpec
        Source, tokenizer and number of shards.
    name : str
        The corpus's name in the study.
    directory : Path
        Where the files go. An earlier corpus there is replaced.
    exclude_overlap_with : Path, optional
        Manifest of the corpus the tokenizer was trained on; required if `spec` says it was trained on one.

    Returns
    -------
    Manifest
        What was written.

    Raises
    ------
    CorpusError
        If the source cannot be read or is empty, the tokenizer cannot be loaded or does not fit the source's labels, or
        a document also belongs to the corpus the tokenizer was trained on. Nothing is left half-written.
    """
    directory = Path(directory)
    tokenizer = load_tokenizer(spec.tokenizer)
    forbidden = _load_forbidden(spec, exclude_overlap_with)
    labels = _LabelColumns(spec)
    _clear(directory)
    counts = ReadingCounts()
    most = spec.source.max_tokens if isinstance(spec.source, ReferenceSource) else None
    with ExitStack() as stack:
        writer = _Writer(stack, directory, tokenizer, spec.shards, labels)
        for batch in _batches(_with_progress(read_documents(spec.source, counts), name)):
            digests = [hashlib.sha256(document.raw).digest() for document in batch]
            forbidden.check(batch, digests)
            for document in batch:
                refuse_other_chain(document.name, document.token_labels, spec.tokenizer)
            tokens = tokenizer.encode([document.text for document in batch])
            writer.write(batch, digests, [ids[:most] for ids in tokens])
        if writer.tokens.sum() == 0:
            raise CorpusError(
                f"corpus {name} is empty: its source gave no token. Check the source's paths and field."
                + (f" Counted: {counts.to_dict()}." if counts.to_dict() else "")
            )
        columns = writer.close()
    annotated, repeats = any(column.is_stored for column in columns), writer.repeats.count()
    manifest = replace(
        _manifest(spec, name, directory, tokenizer, writer),
        annotations_file=FileEntry(ANNOTATIONS_NAME, sha256_file(directory / ANNOTATIONS_NAME)) if annotated else None,
        labels=columns,
        reading=counts.to_dict() or None,
        # A draw may hold a document twice because it was drawn twice.
        repeats=repeats if repeats.documents and most is None else None,
        reference=_copy_pins(spec.source, directory) if isinstance(spec.source, ReferenceSource) else None,
    )
    write_json(directory / MANIFEST_NAME, manifest.to_dict())
    return manifest


def _copy_pins(source: ReferenceSource, directory: Path) -> ReferenceEntry:
    """Put the list of pinned files next to the manifest, so that anyone who has the corpus can draw again."""
    data = Path(source.pins).read_bytes()
    write_bytes(directory / PINS_NAME, data)
    rows = read_pins(directory / PINS_NAME).rows
    return ReferenceEntry(PINS_NAME, sha256_bytes(data), rows, source.max_tokens, reference_seed(source))


def _clear(directory: Path) -> None:
    """Remove an earlier corpus, the manifest first, and what a killed run left behind."""
    (directory / MANIFEST_NAME).unlink(missing_ok=True)
    for pattern in ("shard-*.arrow", DOCUMENTS_NAME, ANNOTATIONS_NAME, PINS_NAME, ".shard-*.tmp", *_TEMPORARY):
        for path in directory.glob(pattern):
            path.unlink()


def _manifest(spec: CorpusSpec, name: str, directory: Path, tokenizer: Tokenizer, writer: _Writer) -> Manifest:
    shards = tuple(
        ShardEntry(shard_name(i), sha256_file(directory / shard_name(i)), int(documents), int(tokens))
        for i, (documents, tokens) in enumerate(zip(writer.documents, writer.tokens, strict=True))
    )
    return Manifest(
        corpus=name,
        source=describe_source(spec.source),
        licence=source_licence(spec.source),
        tokenizer=TokenizerEntry(tokenizer.identity, tokenizer.sha256, tokenizer.vocabulary_size, tokenizer.start_id),
        documents=int(writer.documents.sum()),
        tokens=int(writer.tokens.sum()),
        shards=shards,
        documents_file=FileEntry(DOCUMENTS_NAME, sha256_file(directory / DOCUMENTS_NAME)),
    )


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Group documents until they amount to some memory, so that tokenization is batched and memory is bounded."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _with_progress(documents: Iterator[Document], name: str) -> Iterator[Document]:
    """Pass documents through; on a terminal, show on stderr how many have passed."""
    if not sys.stderr.isatty():
        yield from documents
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("tokenizing {task.description}: {task.completed:,} documents"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(documents, description=name)


class _Writer:
    """Writes batches of documents to all shards and the table of documents; files appear at an exit without error."""

    def __init__(
        self, stack: ExitStack, directory: Path, tokenizer: Tokenizer, shards: int, labels: _LabelColumns
    ) -> None:
        self._tokenizer = tokenizer
        self._labels = labels
        self._annotations: AnnotationWriter | None = None
        if labels.fields:
            path = stack.enter_context(atomic_path(directory / ANNOTATIONS_NAME))
            self._annotations = stack.enter_context(closing(AnnotationWriter(path, labels.fields)))
        self._schema = shard_schema(tokenizer)
        self._token_type = self._schema.field("tokens").type.value_type
        paths = [stack.enter_context(atomic_path(directory / shard_name(i))) for i in range(shards)]
        table_path = stack.enter_context(atomic_path(directory / DOCUMENTS_NAME))
        sinks = [stack.enter_context(pa.OSFile(str(path), "wb")) for path in paths]
        self._shards = [stack.enter_context(pa.ipc.new_stream(sink, self._schema)) for sink in sinks]
        self._table = stack.enter_context(pq.ParquetWriter(table_path, _DOCUMENTS_SCHEMA, compression="zstd"))
        self.repeats = RepeatCounter()
        self.documents = np.zeros(shards, dtype=np.int64)
        self.tokens = np.zeros(shards, dtype=np.int64)

    def write(self, batch: list[Document], digests: list[bytes], tokens: list[np.ndarray]) -> None:
        """Append a batch of documents: their tokens to the shards, one row each to the table."""
        first = int(self.documents.sum())
        for document, ids in zip(batch, tokens, strict=True):
            self._check(document, ids)
        lengths = [len(ids) for ids in tokens]
        if self._annotations is not None:
            leading = self._tokenizer.leading
            codes = [
                self._labels.codes(document, len(ids), leading) for document, ids in zip(batch, tokens, strict=True)
            ]
            self._annotations.write(first, lengths, codes)
        of_tokens = [tokens_digest(ids) for ids in tokens]
        self.repeats.add(of_tokens, lengths)
        rows = [
            [first + i for i in range(len(batch))],
            [document.name for document in batch],
            lengths,
            [len(document.raw) for document in batch],
            [digest.hex() for digest in digests],
            [digest.hex() for digest in of_tokens],
        ]
        self._table.write_table(pa.table([pa.array(row) for row in rows], schema=_DOCUMENTS_SCHEMA))
        # Documents go to the shards in turn, so that a document's number alone says where it is.
        shards = len(self._shards)
        for shard in range(min(shards, len(batch))):
            target = (first + shard) % shards
            for group in _small_groups(list(range(shard, len(batch), shards)), tokens):
                self._write_rows(target, [first + i for i in group], [tokens[i] for i in group])

    def _write_rows(self, shard: int, numbers: list[int], tokens: list[np.ndarray]) -> None:
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in tokens])]).astype(np.int32)
        values = np.concatenate(tokens).astype(self._token_type.to_pandas_dtype())
        column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, type=self._token_type))
        columns = [pa.array(numbers, type=pa.int64()), column]
        self._shards[shard].write_batch(pa.record_batch(columns, schema=self._schema))
        self.documents[shard] += len(numbers)
        self.tokens[shard] += int(offsets[-1])

    def _check(self, document: Document, ids: np.ndarray) -> None:
        if len(ids) > _MAX_DOCUMENT_TOKENS:
            raise CorpusError(f"document {document.name} has {len(ids)} tokens, more than 2^31-1. Split it.")
        if ids.dtype != np.uint8 and len(ids) and int(ids.max()) >= self._tokenizer.vocabulary_size:
            raise CorpusError(
                f"document {document.name} holds token {int(ids.max())}, outside the {self._tokenizer.vocabulary_size} "
                f"tokens of tokenizer {self._tokenizer.identity}. Correct the tokenizer's vocabulary."
            )

    def close(self) -> tuple[LabelColumn, ...]:
        """End every stream (the files are unreadable until then) and return the label columns as they were found."""
        for stream in self._shards:
            stream.close()
        self._table.close()
        columns = self._labels.found()
        if self._annotations is not None:
            self._annotations.close([column for column in columns if column.is_stored])
        return columns


class _LabelColumns:
    """The label columns of a corpus: those that its kind of source declares, or those that its row names."""

    def __init__(self, spec: CorpusSpec) -> None:
        of_tokens = isinstance(spec.source, SequenceSource)
        self._declared = antibody_columns(spec.tokenizer) if of_tokens else ()
        self._of_documents = {} if of_tokens else {name: DocumentLabels(name) for name in spec.source.labels}
        taken = [name for name in self._of_documents if name in SCORE_COLUMNS]
        if taken:
            raise CorpusError(f"'labels' names {taken[0]}, a column of score files. Rename the column in the source.")

    @property
    def fields(self) -> list[pa.Field]:
        """Columns of codes in the annotations."""
        of_documents = [LabelColumn(name, "").field for name in self._of_documents]
        return [column.field for column in self._declared if column.is_stored] + of_documents

    def codes(self, document: Document, tokens: int, leading: int) -> dict[str, np.ndarray]:
        """Codes of a document's tokens by column, int[tokens] each; those of the text's tokens are 0 before it."""
        found = {
            name: np.full(tokens, labels.code(document.labels.get(name), document.name))
            for name, labels in self._of_documents.items()
        }
        for name, values in (document.token_labels or {}).items():
            if len(values) + leading != tokens:
                raise CorpusError(
                    f"document {document.name} has {len(values)} labels and {tokens} tokens, {leading} of them before "
                    "its text. Use the tokenizer that the source's labels were made for."
                )
            found[name] = np.pad(values, (leading, 0))
        return found

    def found(self) -> tuple[LabelColumn, ...]:
        """The columns with all their labels, once every document has been read."""
        return (*self._declared, *(labels.column() for labels in self._of_documents.values()))


def _small_groups(rows: list[int], tokens: list[np.ndarray]) -> Iterator[list[int]]:
    """Split rows so that no record batch holds more tokens than 32-bit offsets can address."""
    group: list[int] = []
    size = 0
    for row in rows:
        if group and size + len(tokens[row]) > _MAX_DOCUMENT_TOKENS:
            yield group
            group, size = [], 0
        group.append(row)
        size += len(tokens[row])
    if group:
        yield group


class _Forbidden:
    """The documents of the corpus a tokenizer was trained on, as the first eight bytes of their hashes."""

    def __init__(self, hashes: np.ndarray, corpus: str) -> None:
        self._hashes = np.sort(hashes)
        self._corpus = corpus

    def check(self, batch: list[Document], digests: list[bytes]) -> None:
        """Refuse a batch that shares a (non-empty) document with that corpus."""
        if not len(self._hashes):
            return
        prefixes = _prefixes(digests)
        places = np.minimum(np.searchsorted(self._hashes, prefixes), len(self._hashes) - 1)
        for index in np.flatnonzero(self._hashes[places] == prefixes):
            if batch[index].text:
                raise CorpusError(
                    f"document {batch[index].name} is also in corpus {self._corpus}, on which the tokenizer was "
                    "trained: the tokenizer depends on the data, and no bound holds. Remove the document from one "
                    "of the two, or use a published tokenizer."
                )


def _prefixes(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digest[:8] for digest in digests), dtype=np.uint64)


def _load_forbidden(spec: CorpusSpec, path: Path | str | None) -> _Forbidden:
    """Read the hashes of the documents this corpus must not contain, if its tokenizer was trained on some corpus."""
    tokenizer = spec.tokenizer
    trained_on = tokenizer.trained_on if isinstance(tokenizer, TransformersTokenizer) else "published"
    if trained_on == "published":
        return _Forbidden(np.zeros(0, dtype=np.uint64), "")
    if path is None:
        raise CorpusError(f"the tokenizer was trained on corpus {trained_on}: give its manifest, to compare documents.")
    manifest = read_manifest(path)
    if manifest.corpus != trained_on:
        raise CorpusError(f"{path} is the manifest of corpus {manifest.corpus}; the tokenizer names {trained_on}.")
    table = Path(path).parent / manifest.documents_file.file
    hashes: list[np.ndarray] = []
    try:
        with pq.ParquetFile(table) as file:
            for batch in file.iter_batches(columns=["sha256"]):
                hashes.append(_prefixes([bytes.fromhex(text) for text in batch.column(0).to_pylist()]))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise CorpusError(f"cannot read {table}: {error}. Tokenize corpus {trained_on} again.") from error
    return _Forbidden(np.concatenate([np.zeros(0, dtype=np.uint64), *hashes]), trained_on)
