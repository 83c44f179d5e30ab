"""Rows of corpora: sources of documents and tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.antibodies import (
    AirrSource,
    AntibodyTokenizer,
    CsvSource,
    FastaSource,
    IglmTokenizer,
    OasSource,
    SequenceSource,
)
from tokenbounds.config.base import STRICT, Checked, Fault, LabelName, Paths, PositiveInt, Reference

Licence = Annotated[str, Field(description="The documents' licence, for the manifest.")]
TextField = Annotated[str, Field(description="Column that holds the text.")]
Labels = Annotated[
    tuple[LabelName, ...],
    Field(
        description="Columns whose values label the document, such as `[language]`; `bounds.subsets` may name them. "
        "What values may be: docs/labels.md."
    ),
]

SCORE_COLUMNS = ("block", "document", "position", "member", "token", "nll_bits", "rank", "entropy_bits", "alpha")
"""Columns of score files and annotations, whose names no label column may have."""


@dataclass(frozen=True, config=STRICT)
class PythonStdlibSource:
    """The Python standard library of the interpreter that runs the job: its sources and documentation topics.

    `part` takes about half of the files, those whose SHA-256 is even or odd, so that `even` and `odd` give corpora that
    share no text.
    """

    kind: Literal["python_stdlib"]
    labels: ClassVar[tuple[str, ...]] = ()
    part: Annotated[
        Literal["all", "even", "odd"], Field(description="All files, or those whose SHA-256 is an even or odd number.")
    ] = "all"


@dataclass(frozen=True, config=STRICT)
class PythonTopicsSource:
    """Python's documentation topics, technical English that comes with every interpreter (`pydoc_data.topics`).

    There are about 80. `part` takes every second one by name, so that `even` and `odd` give disjoint corpora; a text
    that has two names is read under the first.
    """

    kind: Literal["python_topics"]
    labels: ClassVar[tuple[str, ...]] = ()
    part: Annotated[
        Literal["all", "even", "odd"],
        Field(description="All topics, or every second one by name, from the first or the second on."),
    ] = "all"


@dataclass(frozen=True, config=STRICT)
class ArithmeticSource:
    """Sums and differences as text, drawn by a seed: prompts whose answers can be checked.

    A document is `47?85=231` and a line feed: two numbers of `digits` digits, each drawn uniformly, and the answer from
    its last digit on, in `digits + 1` digits. The rule of each answer is drawn too, and the prompt does not tell it.
    Documents are independent and identically distributed, so that they may repeat.
    """

    kind: Literal["arithmetic"]
    labels: ClassVar[tuple[str, ...]] = ()
    answers: Annotated[
        tuple[Literal["sum", "difference"], ...],
        Field(
            min_length=1,
            description="Rules that answers follow, each as often: sum, or difference without its sign.",
        ),
    ] = ("sum",)
    documents: Annotated[PositiveInt, Field(description="How many documents are drawn.")] = 20000
    digits: Annotated[int, Field(ge=1, le=9, description="Digits of each number, leading zeros included.")] = 2
    seed: Annotated[int, Field(ge=0, description="Seed of the draws.")] = 0


@dataclass(frozen=True, config=STRICT)
class IntegerSequenceSource:
    """Sequences of integers as text, drawn by a seed: each by a rule of its own, or without any.

    `structured`: each term is the value, modulo `modulus`, of a small expression of the term before and its place; the
    expression is the sequence's own. `random`: terms are drawn uniformly from the integers of the structured sequences
    of the same settings. A document is `1,4,9,16,` and a line feed.
    """

    kind: Literal["integer_sequences"]
    labels: ClassVar[tuple[str, ...]] = ()
    terms: Annotated[
        Literal["structured", "random"], Field(description="Whether terms follow from an expression, or from nothing.")
    ]
    sequences: Annotated[PositiveInt, Field(description="How many distinct sequences are drawn.")] = 984
    length: Annotated[PositiveInt, Field(description="Terms of each sequence.")] = 30
    complexity: Annotated[
        int,
        Field(ge=1, le=32, description="Leaves of an expression's binary tree: numbers, the place, the term before."),
    ] = 4
    modulus: Annotated[int, Field(ge=2, le=10**9, description="Terms are less than it.")] = 1000
    seed: Annotated[int, Field(ge=0, description="Seed of the draws.")] = 0


@dataclass(frozen=True, config=STRICT)
class TextSource:
    """Plain text files, one document each. `paths` are files, folders (searched for *.txt) or glob patterns."""

    kind: Literal["text"]
    labels: ClassVar[tuple[str, ...]] = ()
    paths: Annotated[Paths, Field(description="Files, folders (searched for `*.txt`) or glob patterns.")]
    licence: Licence = "unstated"


@dataclass(frozen=True, config=STRICT)
class JsonLinesSource:
    """JSON lines files (plain or .gz), one document per line, its text under the key `field`."""

    kind: Literal["jsonl"]
    paths: Annotated[
        Paths,
        Field(description="Files, folders (searched for `*.jsonl` and `*.jsonl.gz`) or glob patterns."),
    ]
    field: Annotated[str, Field(description="Key of each line's object that holds the text.")] = "text"
    labels: Labels = ()
    licence: Licence = "unstated"


@dataclass(frozen=True, config=STRICT)
class ParquetSource:
    """Parquet files, one document per row, its text in the column `field`."""

    kind: Literal["parquet"]
    paths: Annotated[Paths, Field(description="Files, folders (searched for `*.parquet`) or glob patterns.")]
    field: TextField = "text"
    labels: Labels = ()
    licence: Licence = "unstated"


@dataclass(frozen=True, config=STRICT)
class HuggingFaceSource:
    """A dataset of the Hugging Face hub (by name, streamed) or on disk (a folder written by `save_to_disk`)."""

    kind: Literal["huggingface"]
    name: Annotated[str, Field(description="Name on the hub, or a folder written by `save_to_disk`.")]
    subset: Annotated[str | None, Field(description="Configuration of the dataset, if it has several.")] = None
    split: Annotated[str, Field(description="Split to read.")] = "train"
    field: TextField = "text"
    labels: Labels = ()
    revision: Annotated[
        str | None, Field(description="Branch, tag or commit on the hub; pin it for results that can be repeated.")
    ] = None
    documents: Annotated[PositiveInt | None, Field(description="Read only this many documents, from the first on.")] = (
        None
    )
    licence: Licence = "unstated"


@dataclass(frozen=True, config=STRICT)
class ReferenceSource:
    """A corpus by reference: pinned files of any number of rows, of which only a drawn few are read and tokenized.

    `tokenbounds pin` writes the list of files. `documents` rows are drawn, uniformly and with replacement; each is cut
    after `max_tokens` tokens. Certificates are about the whole corpus so cut: docs/reference.md.
    """

    kind: Literal["reference"]
    labels: ClassVar[tuple[str, ...]] = ()
    pins: Annotated[str, Field(description="The list of files that `tokenbounds pin` wrote.")]
    documents: Annotated[PositiveInt, Field(description="How many rows to draw, with replacement.")]
    max_tokens: Annotated[
        PositiveInt, Field(description="A document's tokens after these are not part of the corpus.")
    ] = 2048
    field: TextField = "text"
    seed: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Field(description="Seed of the draw; `null`: it follows from the list of files, so no one chose it."),
    ] = None
    licence: Licence = "unstated"


Source = Annotated[
    PythonStdlibSource
    | PythonTopicsSource
    | ArithmeticSource
    | IntegerSequenceSource
    | TextSource
    | JsonLinesSource
    | ParquetSource
    | HuggingFaceSource
    | ReferenceSource
    | AirrSource
    | OasSource
    | FastaSource
    | CsvSource,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, config=STRICT)
class ByteTokenizer:
    """One token per byte of UTF-8: 256 tokens, fixed before any corpus."""

    vocabulary_size: ClassVar[int | None] = 256
    kind: Literal["bytes"]


@dataclass(frozen=True, config=STRICT)
class TransformersTokenizer(Checked):
    """A tokenizer that `transformers.AutoTokenizer` loads, by hub name, by folder, or from a GGUF file.

    `name` is a hub name or a folder; with `package`, the folder of that installed Python package. `trained_on` is
    `published` when it was fixed before and independently of the corpus, or the name of the corpus row it was trained
    on: that row must share no document with this one.
    """

    vocabulary_size: ClassVar[int | None] = None
    kind: Literal["transformers"]
    name: Annotated[
        str | None,
        Field(description="Hub name, folder, or folder of the GGUF file. Give exactly one of `name` and `package`."),
    ] = None
    package: Annotated[str | None, Field(description="Installed Python package whose folder holds the tokenizer.")] = (
        None
    )
    revision: Annotated[str | None, Field(description="Branch, tag or commit on the hub.")] = None
    gguf_file: Annotated[
        str | None, Field(description="Take the tokenizer from this GGUF file in the folder or package.")
    ] = None
    split_special_tokens: Annotated[
        bool,
        Field(
            description="Split the string of a special token inside a document (`<|endoftext|>`) like other text; "
            "`false` leaves it to the tokenizer, which usually turns it into the special token."
        ),
    ] = False
    trained_on: Annotated[
        str,
        Reference("corpora", but="published"),
        Field(
            description="`published` (fixed before and independently of the corpus), or the corpus row it was "
            "trained on, which must share no document with this one."
        ),
    ] = "published"

    def faults(self) -> Iterator[Fault]:
        """Yield a tokenizer that is named twice or not at all."""
        if (self.name is None) == (self.package is None):
            yield Fault("", "give exactly one of 'name' and 'package'.")


TokenizerSpec = Annotated[
    ByteTokenizer | TransformersTokenizer | AntibodyTokenizer | IglmTokenizer, Field(discriminator="kind")
]


@dataclass(frozen=True, config=STRICT)
class CorpusSpec(Checked):
    """A corpus: where its documents come from, how they become tokens, and into how many shards they are written."""

    source: Annotated[Source, Field(description="Where the documents come from.")]
    tokenizer: Annotated[TokenizerSpec, Field(description="How documents become tokens.")] = Field(
        default_factory=lambda: ByteTokenizer(kind="bytes")
    )
    shards: Annotated[
        PositiveInt,
        Field(description="Number of files that the tokens are spread over. It does not change any result."),
    ] = 4

    def faults(self) -> Iterator[Fault]:
        """Yield label columns whose names are taken, and sources and tokenizers that do not fit together."""
        for name in self.source.labels:
            if name in SCORE_COLUMNS:
                yield Fault("source.labels", f"'{name}' is a column of score files. Rename the column.")
        if len(set(self.source.labels)) < len(self.source.labels):
            yield Fault("source.labels", "a column appears twice. Name each once.")
        if not isinstance(self.source, SequenceSource):
            return
        if self.tokenizer.kind not in ("antibody", "iglm"):
            yield Fault("tokenizer", "antibody sequences need the tokenizer {kind: antibody}.")
        if self.tokenizer.kind == "iglm":
            yield from _iglm_faults(self.source, self.tokenizer.chain)


def _iglm_faults(source: SequenceSource, chain: str) -> Iterator[Fault]:
    """Yield what IgLM cannot read: families, letters beyond its vocabulary, chains of a kind other than stated."""
    if source.layout.kind == "family":
        yield Fault("source.layout", "IgLM reads single sequences. Use {kind: single}.")
    if source.keep.ambiguous:
        yield Fault("source.keep.ambiguous", "IgLM has no token for ambiguous residues. Leave it out.")
    if source.keep.gaps:
        yield Fault("source.keep.gaps", "IgLM has no token for gaps. Leave it out.")
    if source.only_chain != chain:
        given = f"{source.only_chain} chains" if source.only_chain else "chains of both kinds"
        yield Fault(
            "tokenizer.chain",
            f"every sequence would be told to IgLM as {chain}, but the source may give {given}. Set the source's chain "
            f"to {chain}, or make a corpus of each kind.",
        )
