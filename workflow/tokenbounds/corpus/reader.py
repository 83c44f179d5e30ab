"""Reading a tokenized corpus through memory maps: documents in order, or a single one by its number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenbounds.corpus.arrow import is_compressed
from tokenbounds.corpus.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest, ShardEntry, beside, read_manifest
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.errors import CorpusError
from tokenbounds.files import sha256_file

_REMEDY = "Run `snakemake --forcerun tokenize_corpus`."


def check_known(corpus: Corpus | MemoryCorpus, vocabulary_size: int) -> None:
    """Refuse a corpus that holds a token which a model of `vocabulary_size` tokens does not know.

    A tokenizer may have more tokens than its model, such as a [PAD] that was added to it: that matters only where a
    document holds one.

    Raises
    ------
    CorpusError
        If there is such a token.
    """
    if corpus.vocabulary_size <= vocabulary_size:
        return
    for number in range(len(corpus.lengths)):
        tokens = corpus.document(number)
        if tokens.size and tokens.max() >= vocabulary_size:
            raise CorpusError(
                f"document {number} holds token {tokens.max()}, but the model knows {vocabulary_size} tokens (the "
                f"tokenizer {corpus.vocabulary_size}). Use the model's own tokenizer, without added tokens in its text."
            )


class Corpus:
    """A tokenized corpus on disk.

    Attributes
    ----------
    manifest : Manifest
        What is known about it.
    lengths : int64[documents]
        Tokens of each document.
    documents, tokens, vocabulary_size, start_id : int
        As in the manifest.
    """

    def __init__(self, manifest: Manifest, shards: list[_Shard]) -> None:
        self.manifest = manifest
        self.documents = manifest.documents
        self.tokens = manifest.tokens
        self.vocabulary_size = manifest.tokenizer.vocabulary_size
        self.start_id = manifest.tokenizer.start_id
        self._shards = shards
        self.lengths = np.zeros(manifest.documents, dtype=np.int64)
        # Document n is in shard n mod shards.
        for number, shard in enumerate(shards):
            self.lengths[number :: len(shards)] = shard.lengths

    @classmethod
    def open(cls, directory: Path | str, *, verify: bool = False) -> Corpus:
        """Map the shards of a corpus; with `verify`, first compare every file with its hash in the manifest.

        Raises
        ------
        CorpusError
            If the manifest is missing, or a shard is unreadable, altered, or made by another tokenizer; the message
            names it.
        """
        directory = Path(directory)
        manifest = read_manifest(directory / MANIFEST_NAME)
        if verify:
            for shard in manifest.shards:
                _verify(directory / shard.file, shard.sha256)
            for file in beside(manifest):
                _verify(directory / file.file, file.sha256)
        count = len(manifest.shards)
        shards = [_Shard(directory / entry.file, entry, manifest, i) for i, entry in enumerate(manifest.shards)]
        for number, entry in enumerate(manifest.shards):
            if entry.documents != len(range(number, manifest.documents, count)):
                raise CorpusError(
                    f"{directory / MANIFEST_NAME}: {entry.file} does not contain every {count}th document. {_REMEDY}"
                )
        return cls(manifest, shards)

    def document(self, number: int) -> np.ndarray:
        """The tokens of a document, uint16[n] or uint32[n]: a read-only view of the file.

        Raises
        ------
        CorpusError
            If there is no such document, or it contains a token outside the vocabulary.
        """
        if not 0 <= number < self.documents:
            raise CorpusError(f"corpus {self.manifest.corpus} has no document {number}, only {self.documents}.")
        return self._shards[number % len(self._shards)].row(number // len(self._shards))

    def iterate(self) -> Iterator[np.ndarray]:
        """Yield the documents' tokens in corpus order."""
        for number in range(self.documents):
            yield self.document(number)


class _Shard:
    """One mapped shard: for every record batch its offsets and values, both views of the file."""

    def __init__(self, path: Path, entry: ShardEntry, manifest: Manifest, shard: int) -> None:
        self._path = path
        self._vocabulary_size = manifest.tokenizer.vocabulary_size
        self._offsets: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        try:
            file = pa.memory_map(str(path), "r")
            with pa.ipc.open_stream(file) as reader:
                self._check_schema(reader.schema, manifest)
                if is_compressed(file):
                    raise CorpusError(f"{path} is compressed, so its size bounds nothing. {_REMEDY}")
                file.seek(0)
            with pa.ipc.open_stream(file) as reader:
                row = 0
                for batch in reader:
                    self._add(batch, row, shard, len(manifest.shards))
                    row += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"cannot read {path}: {error}. {_REMEDY}") from error
        lengths = [np.diff(offsets) for offsets in self._offsets]
        self.lengths = np.concatenate([np.zeros(0, dtype=np.int64), *lengths]).astype(np.int64)
        self._first_rows = np.concatenate([[0], np.cumsum([len(part) for part in lengths])]).astype(np.int64)
        if len(self.lengths) != entry.documents or int(self.lengths.sum()) != entry.tokens:
            raise CorpusError(
                f"{path} holds {len(self.lengths)} documents and {int(self.lengths.sum())} tokens, its manifest says "
                f"{entry.documents} and {entry.tokens}. {_REMEDY}"
            )

    def _check_schema(self, schema: pa.Schema, manifest: Manifest) -> None:
        metadata = {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for key, value in (schema.metadata or {}).items()
        }
        if metadata.get("schema_version") != str(SCHEMA_VERSION):
            version = metadata.get("schema_version")
            raise CorpusError(f"{self._path}: schema version {version}, not {SCHEMA_VERSION}. {_REMEDY}")
        if metadata.get("tokenizer_sha256") != manifest.tokenizer.sha256:
            raise CorpusError(f"{self._path} was made by a tokenizer other than the one its manifest names. {_REMEDY}")
        wanted = (pa.list_(pa.uint16()), pa.list_(pa.uint32()))
        if schema.names != ["document", "tokens"] or schema.field("tokens").type not in wanted:
            raise CorpusError(f"{self._path} does not have the columns of a token shard. {_REMEDY}")

    def _add(self, batch: pa.RecordBatch, row: int, shard: int, shards: int) -> None:
        documents, tokens = batch.column(0), batch.column(1)
        batch.validate(full=True)
        expected = shard + shards * np.arange(row, row + batch.num_rows, dtype=np.int64)
        if documents.null_count or tokens.null_count or not np.array_equal(documents.to_numpy(), expected):
            raise CorpusError(f"{self._path}: its documents are not numbered as they should be. {_REMEDY}")
        self._offsets.append(tokens.offsets.to_numpy())
        self._values.append(tokens.values.to_numpy())

    def row(self, row: int) -> np.ndarray:
        batch = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        start, stop = self._offsets[batch][row - self._first_rows[batch] :][:2]
        tokens = self._values[batch][start:stop]
        if len(tokens) and int(tokens.max()) >= self._vocabulary_size:
            raise CorpusError(
                f"{self._path} holds token {int(tokens.max())}, outside its vocabulary of {self._vocabulary_size}. "
                + _REMEDY
            )
        return tokens


def _verify(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise CorpusError(f"{path} does not exist. {_REMEDY}")
    if sha256_file(path) != sha256:
        raise CorpusError(f"{path} differs from its manifest (SHA-256). {_REMEDY}")
