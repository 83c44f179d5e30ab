"""The part of a certificate that names what it rests on: messages, scores, corpus, plan and prior, file by file.

`schema` has the rest, and says how these types become JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from pydantic.json_schema import SkipJsonSchema

STRICT = ConfigDict(extra="forbid", strict=True)
"""Every type of a certificate refuses keys that it does not know, and values of another type."""


def absent(schema: dict[str, Any]) -> None:
    """A field that may be absent is never written with its default, so the JSON schema does not name one."""
    schema.pop("default", None)


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file's bytes, hexadecimal")]
RelativePath = Annotated[str, Field(pattern=r"^[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]*$", max_length=4096)]
RelativeFile = Annotated[RelativePath, Field(description="path relative to the certificate's folder")]
ExactFraction = Annotated[str, Field(pattern=r"^[0-9]{1,1000}(/[0-9]{1,1000})?$")]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[
    str,
    Field(
        pattern=r"""^[^\x00-\x20\x7f'"‘’“”]([^\x00-\x1f\x7f'"‘’“”]*[^\x00-\x20\x7f'"‘’“”])?$""",
        max_length=128,
    ),
]
"""What sentences quote: one line, at most 128 characters, no quotation marks, so that it ends where it appears to."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file and the hash that ties it to the certificate."""

    file: RelativeFile
    sha256: Sha256


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class CoarseRecord(FileRecord):
    """The coarse message that a refinement is coded on top of: its bits are paid for too."""

    name: Annotated[Name, Field(description="the coarse message's row in the study")]
    size_bits: Annotated[int, Field(ge=8, description="8 × the file's size, part of C")]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class BaseRecord:
    """The base model that a message is decoded with: assumed to be fixed before the corpus, and not paid for."""

    name: Annotated[Name, Field(description="name of its folder")]
    place: Annotated[RelativePath, Field(description="its folder, relative to the certificate's folder")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="hash of the model: its card and values")]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class MessageRecord(FileRecord):
    """The message: the bits that are paid for."""

    name: Annotated[Name, Field(description="the message's row in the study")]
    size_bits: Annotated[int, Field(ge=8, description="8 × the file's size: with that of `coarse`, C in bits")]
    breakdown: Annotated[dict[str, Count], Field(description="bits by part; sums to size_bits")]
    header: Annotated[dict[str, Any], Field(description="the message's header: model card, quantizer, coder")]
    coarse: Annotated[
        CoarseRecord | SkipJsonSchema[None],
        Field(description="what a refinement refines", json_schema_extra=absent),
    ] = None
    base: Annotated[
        BaseRecord | SkipJsonSchema[None],
        Field(description="what a fine-tune is a fine-tune of", json_schema_extra=absent),
    ] = None

    @property
    def whole_breakdown(self) -> dict[str, int]:
        """Bits by part of the message and of the coarse message beneath it, if there is one; they sum to C."""
        return {**self.breakdown, **({"coarse message": self.coarse.size_bits} if self.coarse else {})}

    @property
    def whole_bits(self) -> int:
        """C: bits of everything that must be sent for the model, the coarse message included."""
        return sum(self.whole_breakdown.values())


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ShardRecord(FileRecord):
    """One token shard of the corpus."""

    documents: Count
    tokens: Count


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ManifestRecord(FileRecord):
    """The corpus: its manifest, and through it every shard."""

    source: Annotated[dict[str, Any], Field(description="where the documents came from")]
    licence: str
    tokenizer: Annotated[dict[str, Any], Field(description="identity, hash, vocabulary size, start token")]
    documents: Annotated[int, Field(ge=1)]
    documents_file: FileRecord
    annotations_file: Annotated[
        FileRecord | SkipJsonSchema[None],
        Field(description="labels of tokens, where the corpus has them", json_schema_extra=absent),
    ] = None
    shards: Annotated[tuple[ShardRecord, ...], Field(min_length=1)]

    @property
    def token(self) -> str:
        """What a token of this corpus is called: "byte" if the tokenizer has one token per byte."""
        return "byte" if self.tokenizer.get("identity") in ("byte", "bytes") else "token"


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class PlanRecord(FileRecord):
    """Which tokens were scored, and how often each block counts."""

    mode: Annotated[
        Literal["exhaustive", "sampled", "partial"], Field(description="partial: some blocks of each document")
    ]
    blocks: Annotated[int, Field(ge=1, description="distinct blocks scored")]
    draws: Annotated[int, Field(ge=1, description="with-replacement draws; equals blocks unless sampled")]
    seed: Annotated[int, Field(description="seed of the draws; without effect when exhaustive")]
    context: Annotated[int, Field(ge=1, description="tokens a window shows the model at most")]
    stride: Annotated[int, Field(ge=1, description="tokens a window advances by, and scores")]
    visible_tokens: Annotated[
        int | None, Field(description="tokens the model sees before each one it predicts; null: all of its window")
    ]
    blocks_per_document: Annotated[
        Annotated[int, Field(ge=1)] | SkipJsonSchema[None],
        Field(description="most blocks of a document that were scored", json_schema_extra=absent),
    ] = None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ScoreRecord(FileRecord):
    """One Parquet file of per-token scores."""

    rows: Count


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class BlocksRecord:
    """The scores once more, as the root of a Merkle tree over blocks: a few can be audited without the rest."""

    root: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="root of the tree over the plan's blocks")]
    columns: Annotated[tuple[str, ...], Field(min_length=1, description="columns of the scores in a leaf, in order")]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ChainRecord:
    """A message, and its scores by the plan: a cheaper one of the chain, or the certified one."""

    message: MessageRecord
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16)$", description="arithmetic that the scores were made in")]
    batch_tokens: Annotated[
        int | SkipJsonSchema[None],
        Field(ge=1, description="most tokens scored at once, on which rounding depends", json_schema_extra=absent),
    ] = None
    scores: Annotated[tuple[ScoreRecord, ...], Field(min_length=1)]
    blocks: Annotated[
        BlocksRecord | SkipJsonSchema[None],
        Field(description="digest of the scores by block", json_schema_extra=absent),
    ] = None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class TrainingRecord(FileRecord):
    """A corpus that a held-out model or a base was trained on; it shares no document with the certified one."""

    corpus: Annotated[Name, Field(description="the corpus's name, as in its manifest")]
    documents_file: FileRecord


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class PriorRecord:
    """Whether messages are paid for."""

    kind: Annotated[
        Literal["message", "held_out", "online"],
        Field(description="held_out: C = 0, only delta is paid; online: the model learns along the corpus"),
    ]
    trained_on: Annotated[
        tuple[TrainingRecord, ...], Field(description="training corpora of held-out models and of bases")
    ]
    because: Annotated[
        str, Field(description="why held-out models cannot depend on the corpus", json_schema_extra=absent)
    ] = ""

    @property
    def held_out(self) -> bool:
        """Whether no message is paid for, since no model saw the corpus."""
        return self.kind == "held_out"

    @property
    def remark(self) -> str:
        """What follows a certificate's name in tables; nothing if all its messages are paid for."""
        return {"message": "", "held_out": " (held out)", "online": " (online)"}[self.kind]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class EvidenceRecord(ChainRecord):
    """What a certificate rests on: its own message and scores, those of its chain, the corpus, the plan, the prior."""

    chain: Annotated[tuple[ChainRecord, ...], Field(description="cheaper messages, cheapest first; often none")]
    manifest: ManifestRecord
    plan: PlanRecord
    prior: PriorRecord

    @property
    def links(self) -> tuple[ChainRecord, ...]:
        """Every message with its scores, cheapest first, the certified one last."""
        return (*self.chain, self)

    @property
    def bases(self) -> tuple[BaseRecord, ...]:
        """The models that messages are decoded with and that are not paid for, each once; the chain's come first."""
        bases = [link.message.base for link in self.links]
        return tuple({base.sha256: base for base in bases if base}.values())

    def files(self) -> Iterator[tuple[str, FileRecord]]:
        """Yield every file that the certificate rests on, with what it is; but not bases, which are folders."""
        for link in (self, *self.chain):
            role = "" if link is self else "chain "
            yield f"{role}message", link.message
            if link.message.coarse:
                yield "coarse message", link.message.coarse
            yield from ((f"{role}scores", record) for record in link.scores)
        yield "plan", self.plan
        yield "manifest", self.manifest
        yield "documents", self.manifest.documents_file
        if self.manifest.annotations_file:
            yield "annotations", self.manifest.annotations_file
        yield from (("shard", record) for record in self.manifest.shards)
        for record in self.prior.trained_on:
            yield "trained on", record
            yield "documents trained on", record.documents_file
