"""Rows of corpora: sources of documents and tokenizers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.antibodies import (
    AirrSource,
    AntibodyTokenizer,
    CsvSource,
    FastaSource,
    IglmTokenizer,
    OasSource,
)
from tokenbounds.config.base import STRICT, PositiveInt


@dataclass(frozen=True, config=STRICT)
class PythonStdlibSource:
    """The Python standard library of the interpreter that runs the job: its sources and documentation topics."""

    kind: Literal["python_stdlib"]


@dataclass(frozen=True, config=STRICT)
class PythonTopicsSource:
    """Python's documentation topics, technical English that comes with every interpreter (`pydoc_data.topics`).

    There are about 80. `part` takes every second one by name, so that `even` and `odd` give disjoint corpora; a text
    that stands under two names is read under the first.
    """

    kind: Literal["python_topics"]
    part: Literal["all", "even", "odd"] = "all"


@dataclass(frozen=True, config=STRICT)
class TextSource:
    """Plain text files, one document each. `paths` are files, folders (searched for *.txt) or glob patterns."""

    kind: Literal["text"]
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    licence: str = "unstated"


@dataclass(frozen=True, config=STRICT)
class JsonLinesSource:
    """JSON lines files (plain or .gz), one document a line, its text under the key `field`."""

    kind: Literal["jsonl"]
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    field: str = "text"
    licence: str = "unstated"


@dataclass(frozen=True, config=STRICT)
class ParquetSource:
    """Parquet files, one document a row, its text in the column `field`."""

    kind: Literal["parquet"]
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    field: str = "text"
    licence: str = "unstated"


@dataclass(frozen=True, config=STRICT)
class HuggingFaceSource:
    """A dataset of the Hugging Face hub (by name, streamed) or on disk (a folder written by `save_to_disk`)."""

    kind: Literal["huggingface"]
    name: str
    subset: str | None = None
    split: str = "train"
    field: str = "text"
    revision: str | None = None
    documents: PositiveInt | None = None
    licence: str = "unstated"


Source = Annotated[
    PythonStdlibSource
    | PythonTopicsSource
    | TextSource
    | JsonLinesSource
    | ParquetSource
    | HuggingFaceSource
    | AirrSource
    | OasSource
    | FastaSource
    | CsvSource,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, config=STRICT)
class ByteTokenizer:
    """One token a byte of UTF-8: 256 tokens, fixed before any corpus."""

    kind: Literal["bytes"]


@dataclass(frozen=True, config=STRICT)
class TransformersTokenizer:
    """A tokenizer that `transformers.AutoTokenizer` loads, by hub name, by folder, or from a GGUF file.

    `name` is a hub name or a folder; with `package`, the folder of that installed Python package. `trained_on` is
    `published` when it was fixed before and independently of the corpus, or the name of the corpus row it was trained
    on: that row must share no document with this one.
    """

    kind: Literal["transformers"]
    name: str | None = None
    package: str | None = None
    revision: str | None = None
    gguf_file: str | None = None
    trained_on: str = "published"


TokenizerSpec = Annotated[
    ByteTokenizer | TransformersTokenizer | AntibodyTokenizer | IglmTokenizer, Field(discriminator="kind")
]


@dataclass(frozen=True, config=STRICT)
class CorpusSpec:
    """A corpus: where its documents come from, how they become tokens, and into how many shards they are written."""

    source: Source
    tokenizer: TokenizerSpec = Field(default_factory=lambda: ByteTokenizer(kind="bytes"))
    shards: PositiveInt = 4
