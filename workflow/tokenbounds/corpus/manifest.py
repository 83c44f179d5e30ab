"""The manifest of a corpus: what its shards hold, where they come from, and their hashes."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenbounds.corpus.labels import LabelColumn
from tokenbounds.corpus.reference import ReferenceEntry
from tokenbounds.corpus.repeats import Repeats
from tokenbounds.errors import CorpusError, TokenboundsError
from tokenbounds.files import read_json

SCHEMA_VERSION, LABELLED_VERSION = 1, 2  # without and with label columns
REFERENCE_VERSION = 3  # a draw of a corpus by reference: to read it as the corpus itself would be wrong
MANIFEST_NAME = "manifest.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class TokenizerEntry:
    """Which tokenizer made the tokens."""

    identity: str
    sha256: str
    vocabulary_size: int
    start_id: int


@dataclass(frozen=True)
class ShardEntry:
    """One shard file and what it holds."""

    file: str
    sha256: str
    documents: int
    tokens: int


@dataclass(frozen=True)
class FileEntry:
    """A file next to the manifest."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything known about a corpus except its tokens.

    `labels` declares what is known about tokens; `annotations_file` holds it, if there is any. `reading` counts what a
    source left out or changed, if it counts that; `repeats` the documents that are equal to an earlier one, if any are,
    and their tokens. `reference` says of which whole the documents are a draw.
    """

    corpus: str
    source: dict[str, Any]
    licence: str
    tokenizer: TokenizerEntry
    documents: int
    tokens: int
    shards: tuple[ShardEntry, ...]
    documents_file: FileEntry
    annotations_file: FileEntry | None = None
    labels: tuple[LabelColumn, ...] = ()
    reading: dict[str, Any] | None = None
    repeats: Repeats | None = None
    reference: ReferenceEntry | None = None

    @property
    def schema_version(self) -> int:
        """3 for a draw of a corpus by reference, 2 if it declares labels, otherwise 1."""
        if self.reference is not None:
            return REFERENCE_VERSION
        return LABELLED_VERSION if self.labels else SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        labels = [column.to_dict() for column in self.labels] or None
        fields = {**asdict(self), "labels": labels, "schema_version": self.schema_version}
        return {name: value for name, value in fields.items() if value is not None}


def read_manifest(path: Path | str) -> Manifest:
    """Read and check a manifest.

    Raises
    ------
    CorpusError
        If it is missing, of another version, incomplete, or does not add up.
    """
    try:
        raw = read_json(path)
    except TokenboundsError as error:
        raise CorpusError(f"{error} (A corpus without a manifest was not finished: tokenize it again.)") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    expected = LABELLED_VERSION if isinstance(raw, dict) and "labels" in raw else SCHEMA_VERSION
    expected = REFERENCE_VERSION if isinstance(raw, dict) and "reference" in raw else expected
    if version != expected:
        raise CorpusError(f"{path} has schema version {version}, this program reads {expected}. Tokenize again.")
    try:
        manifest = _parse(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorpusError(f"{path} is not a complete manifest ({error!r}). Tokenize the corpus again.") from error
    _check(manifest, Path(path))
    return manifest


def _parse(raw: dict[str, Any]) -> Manifest:
    return Manifest(
        corpus=raw["corpus"],
        source=raw["source"],
        licence=raw["licence"],
        tokenizer=TokenizerEntry(**raw["tokenizer"]),
        documents=raw["documents"],
        tokens=raw["tokens"],
        shards=tuple(ShardEntry(**shard) for shard in raw["shards"]),
        documents_file=FileEntry(**raw["documents_file"]),
        annotations_file=FileEntry(**raw["annotations_file"]) if "annotations_file" in raw else None,
        labels=tuple(LabelColumn.from_dict(column) for column in raw.get("labels", ())),
        reading=raw.get("reading"),
        repeats=Repeats(**raw["repeats"]) if "repeats" in raw else None,
        reference=ReferenceEntry(**raw["reference"]) if "reference" in raw else None,
    )


def beside(manifest: Manifest) -> list[FileEntry]:
    """The files next to the shards: the table of documents, and annotations and pinned files if there are any."""
    entries = (manifest.documents_file, manifest.annotations_file, manifest.reference)
    return [FileEntry(entry.file, entry.sha256) for entry in entries if entry is not None]


def _check(manifest: Manifest, path: Path) -> None:
    numbers = [manifest.documents, manifest.tokens, manifest.tokenizer.vocabulary_size, manifest.tokenizer.start_id]
    if manifest.repeats is not None:
        numbers += [manifest.repeats.documents, manifest.repeats.tokens]
    numbers += [number for shard in manifest.shards for number in (shard.documents, shard.tokens)]
    if (reference := manifest.reference) is not None:
        numbers += [reference.rows, reference.max_tokens, reference.seed]
    files = [shard.file for shard in manifest.shards] + [entry.file for entry in beside(manifest)]
    valid = (
        all(type(number) is int and number >= 0 for number in numbers)
        and all(isinstance(file, str) and _FILE_NAME.fullmatch(file) for file in files)
        and (manifest.annotations_file is not None) == any(column.is_stored for column in manifest.labels)
        and manifest.tokenizer.start_id < manifest.tokenizer.vocabulary_size
        and sum(shard.documents for shard in manifest.shards) == manifest.documents
        and sum(shard.tokens for shard in manifest.shards) == manifest.tokens
    )
    if not valid:
        raise CorpusError(f"{path} does not add up: its counts or file names were altered. Tokenize the corpus again.")
