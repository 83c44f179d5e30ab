"""The certificate as a file: its fields, its canonical bytes, and the hash it carries of itself.

The JSON schema `workflow/schemas/certificate.schema.json` is generated from these types, by
`python -m tokenbounds.certificates.schema`; `docs/certificates.md` explains every field. A certificate is a
plain dictionary everywhere else in the library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from tokenbounds.errors import CertificateError
from tokenbounds.files import canonical_json, sha256_bytes, write_bytes

SCHEMA_VERSION = 1
SCHEMA_FILE = Path("workflow/schemas/certificate.schema.json")
_STRICT = ConfigDict(extra="forbid", strict=True)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file's bytes, hexadecimal")]
RelativeFile = Annotated[str, Field(min_length=1, description="path relative to the certificate's folder")]
Count = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


@with_config(_STRICT)
class FileRecord(TypedDict):
    """A file and the hash that ties it to the certificate."""

    file: RelativeFile
    sha256: Sha256


@with_config(_STRICT)
class CoarseRecord(TypedDict):
    """The coarse message that a refinement is coded on top of: its bits are paid for, too."""

    name: Annotated[str, Field(description="the coarse message's row in the study")]
    file: RelativeFile
    sha256: Sha256
    size_bits: Annotated[int, Field(ge=8, description="8 × the file's size, part of C")]


@with_config(_STRICT)
class BaseRecord(TypedDict):
    """The base model that a message is decoded with: assumed to be fixed before the corpus, and not paid for."""

    name: Annotated[str, Field(description="name of its folder")]
    place: Annotated[str, Field(min_length=1, description="its folder, relative to the certificate's folder")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="hash of the model: its card and values")]


@with_config(_STRICT)
class MessageRecord(TypedDict):
    """The message: the bits that are paid for."""

    name: Annotated[str, Field(description="the message's row in the study")]
    file: RelativeFile
    sha256: Sha256
    size_bits: Annotated[int, Field(ge=8, description="8 × the file's size: with that of `coarse`, C in bits")]
    breakdown: Annotated[dict[str, Count], Field(description="bits by part; sums to size_bits")]
    header: Annotated[dict[str, Any], Field(description="the message's header: model card, quantizer, coder")]
    coarse: NotRequired[Annotated[CoarseRecord, Field(description="what a refinement refines")]]
    base: NotRequired[Annotated[BaseRecord, Field(description="what a fine-tune is a fine-tune of")]]


@with_config(_STRICT)
class ShardRecord(TypedDict):
    """One token shard of the corpus."""

    file: RelativeFile
    sha256: Sha256
    documents: Count
    tokens: Count


@with_config(_STRICT)
class ManifestRecord(TypedDict):
    """The corpus: its manifest, and through it every shard."""

    file: RelativeFile
    sha256: Sha256
    source: Annotated[dict[str, Any], Field(description="where the documents came from")]
    licence: str
    tokenizer: Annotated[dict[str, Any], Field(description="identity, hash, vocabulary size, start token")]
    documents: Annotated[int, Field(ge=1)]
    documents_file: FileRecord
    annotations_file: NotRequired[Annotated[FileRecord, Field(description="labels of tokens, of antibody corpora")]]
    shards: Annotated[list[ShardRecord], Field(min_length=1)]


@with_config(_STRICT)
class PlanRecord(TypedDict):
    """Which tokens were scored, and how often each block counts."""

    file: RelativeFile
    sha256: Sha256
    mode: Literal["exhaustive", "sampled"]
    blocks: Annotated[int, Field(ge=1, description="distinct blocks scored")]
    draws: Annotated[int, Field(ge=1, description="with-replacement draws; equals blocks when exhaustive")]
    seed: Annotated[int, Field(description="seed of the draws; without effect when exhaustive")]
    context: Annotated[int, Field(ge=1, description="tokens a window shows the model at most")]
    stride: Annotated[int, Field(ge=1, description="tokens a window moves on by, and scores")]
    visible_tokens: Annotated[
        int | None, Field(description="tokens the model sees before each one it predicts; null: all of its window")
    ]


@with_config(_STRICT)
class ScoreRecord(TypedDict):
    """One Parquet file of per-token scores."""

    file: RelativeFile
    sha256: Sha256
    rows: Count


@with_config(_STRICT)
class ChainRecord(TypedDict):
    """A cheaper message of the chain, and its scores by the same plan."""

    message: MessageRecord
    scores: Annotated[list[ScoreRecord], Field(min_length=1)]


@with_config(_STRICT)
class TrainingRecord(TypedDict):
    """A corpus that a held-out model or a base was trained on; it shares no document with the certified one."""

    corpus: Annotated[str, Field(description="the corpus's name, as in its manifest")]
    file: RelativeFile
    sha256: Sha256
    documents_file: FileRecord


@with_config(_STRICT)
class PriorRecord(TypedDict):
    """Whether messages are paid for."""

    kind: Annotated[Literal["message", "held_out"], Field(description="held_out: C = 0, only delta is paid")]
    trained_on: Annotated[list[TrainingRecord], Field(description="training corpora of held-out models and of bases")]


LinkRecord = TypedDict(
    "LinkRecord",
    {
        "messages": Annotated[list[str], Field(min_length=1, description="names of the messages that it depends on")],
        "alphas": Annotated[list[Probability], Field(min_length=1, description="weight of what each is mixed with")],
        "beta": Annotated[float, Field(ge=0, le=1, description="part of the model below's loss that it subtracts")],
        "weight": Annotated[float, Field(gt=0, le=1, description="factor of its value in the row's value")],
        "lambda": Annotated[float, Field(description="λ chosen from the grid")],
        "value": Annotated[float, Field(description="bound of the link's average, bits")],
        "empirical": Annotated[float, Field(description="the link's average over the scored tokens, bits")],
        "complexity": Annotated[float, Field(ge=0, description="L of the link, nats")],
        "range": Annotated[float, Field(gt=0, description="largest value of the link, bits")],
        "delta": Annotated[Probability, Field(description="the link's share of delta_generalization")],
    },
)
with_config(_STRICT)(LinkRecord)

Row = TypedDict(
    "Row",
    {
        "metric": Annotated[str, Field(description="bpd (bits per token) or top{k}_error (a probability)")],
        "bound": Annotated[str, Field(description="the theorem: a name of the settings' bounds")],
        "value": Annotated[float, Field(description="the certified upper bound, in the metric's unit")],
        "empirical": Annotated[float, Field(description="average over the scored tokens, in the metric's unit")],
        "gap": Annotated[float, Field(description="value − empirical")],
        "complexity": Annotated[float, Field(ge=0, description="L in nats: message, α and λ prices, ln(1/delta)")],
        "range": Annotated[float, Field(gt=0, description="Δ: the loss's range, in the metric's unit")],
        "alpha": Annotated[Probability | None, Field(description="smoothing chosen from the grid; null for top-k")],
        "lambda": Annotated[float | None, Field(description="λ chosen from the grid; null for azuma")],
        "sampling": Annotated[float, Field(ge=0, description="part of the gap owed to sampling the corpus")],
        "random_guess": Annotated[float, Field(description="what uniform guessing gives: log2 V or 1 − k/V")],
        "vacuous": Annotated[bool, Field(description="whether value ≥ random_guess")],
        "delta": Annotated[Probability, Field(description="failure probability of this row")],
        "alphas": NotRequired[
            Annotated[list[Probability], Field(description="weights that the message's head chose from, by token")]
        ],
        "links": NotRequired[Annotated[list[LinkRecord], Field(description="telescoped and mixture rows only")]],
    },
)
with_config(_STRICT)(Row)


@with_config(_STRICT)
class LedgerEntry(TypedDict):
    """One line of a row's ledger."""

    name: Annotated[str, Field(description="what is paid for")]
    amount: Annotated[int | float | str, Field(description="exact fraction as text for a probability, else a number")]
    unit: Literal["probability", "candidates", "bits", "nats", "documents", "sequences"]


@with_config(_STRICT)
class LedgerRow(TypedDict):
    """What one row spends: its share of delta, and its complexity by part."""

    metric: str
    bound: str
    entries: Annotated[list[LedgerEntry], Field(min_length=1)]


@with_config(_STRICT)
class LedgerRecord(TypedDict):
    """How delta is split over the rows beside it."""

    delta: Annotated[str, Field(description="failure probability of these rows together, an exact fraction")]
    rows: Annotated[list[LedgerRow], Field(min_length=1)]


@with_config(_STRICT)
class SubsetRecord(TypedDict):
    """The rows over the tokens with one label."""

    column: Annotated[str, Field(description="column of labels in the score files")]
    label: Annotated[str, Field(description="the label's name")]
    tokens: Annotated[int, Field(ge=1, description="tokens with this label: m of these rows")]
    rows: Annotated[list[Row], Field(min_length=1)]
    ledger: LedgerRecord


@with_config(_STRICT)
class Certificate(TypedDict):
    """A certificate of how well a compressed model predicts the corpus's source."""

    schema_version: Literal[1]
    certificate: Annotated[str, Field(description="the certificate's row in the study")]
    study: str
    corpus: str
    model: str
    message: MessageRecord
    chain: Annotated[list[ChainRecord], Field(description="cheaper messages, cheapest first; often none")]
    prior: PriorRecord
    manifest: ManifestRecord
    plan: PlanRecord
    scores: Annotated[list[ScoreRecord], Field(min_length=1)]
    tokens: Annotated[int, Field(ge=1, description="m: tokens of the corpus")]
    scored_tokens: Annotated[int, Field(ge=1, description="distinct tokens scored")]
    vocabulary_size: Annotated[int, Field(ge=2, description="V")]
    delta: Annotated[
        Probability, Field(description="total failure probability of all rows together, subsets' included")
    ]
    ledger: LedgerRecord
    bounds: Annotated[dict[str, Any], Field(description="the bounds row of the study: metrics, bounds and grids")]
    rows: Annotated[list[Row], Field(min_length=1)]
    subsets: NotRequired[Annotated[list[SubsetRecord], Field(min_length=1, description="rows over labelled tokens")]]
    notes: list[str]
    assumptions: Annotated[list[str], Field(min_length=1)]
    software: dict[str, str]
    certificate_sha256: Annotated[Sha256, Field(description="hash of the rest of the certificate, canonical JSON")]


_CERTIFICATE: TypeAdapter[Certificate] = TypeAdapter(Certificate)


def self_hash(certificate: dict[str, Any]) -> str:
    """SHA-256 of the compact canonical JSON of everything but `certificate_sha256`."""
    rest = {key: value for key, value in certificate.items() if key != "certificate_sha256"}
    return sha256_bytes(canonical_json(rest).encode())


def render(certificate: dict[str, Any]) -> bytes:
    """The only bytes a file holding `certificate` may have."""
    return (canonical_json(certificate, indent=2) + "\n").encode()


def seal(certificate: dict[str, Any]) -> dict[str, Any]:
    """Return `certificate` with `certificate_sha256` set."""
    rest = {key: value for key, value in certificate.items() if key != "certificate_sha256"}
    return {**rest, "certificate_sha256": self_hash(rest)}


def write_certificate(path: Path | str, certificate: dict[str, Any]) -> None:
    """Seal and write `certificate` atomically.

    Raises
    ------
    CertificateError
        If the certificate does not have the documented fields (a fault of the caller).
    """
    sealed = seal(certificate)
    _validate(sealed, path)
    write_bytes(path, render(sealed))


def read_certificate(path: Path | str) -> dict[str, Any]:
    """Read a certificate, refusing any whose bytes or own hash are not what the writer would have written.

    Raises
    ------
    CertificateError
        If the file is missing, is not canonical JSON, breaks the schema, or its hash of itself does not match.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read certificate {path}: {error.strerror or error}.") from error
    damaged = f"{path} is not the certificate that was written"
    try:
        certificate = json.loads(data)
        canonical = isinstance(certificate, dict) and render(certificate) == data
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"{damaged}: not JSON. Get an intact copy, or certify again.") from error
    if not canonical:
        raise CertificateError(f"{damaged}: its bytes are not canonical JSON. Get an intact copy, or certify again.")
    _refuse_unknown_version(certificate, path)
    if certificate.get("certificate_sha256") != self_hash(certificate):
        raise CertificateError(f"{damaged}: certificate_sha256 does not match. Get an intact copy, or certify again.")
    _validate(certificate, path)
    return certificate


def _refuse_unknown_version(certificate: dict[str, Any], path: Path | str) -> None:
    version = certificate.get("schema_version")
    if version != SCHEMA_VERSION:
        raise CertificateError(
            f"{path} has schema_version {version!r}, and this version reads {SCHEMA_VERSION}. "
            "Get an intact copy, or the tokenbounds version that wrote it."
        )


def _validate(certificate: dict[str, Any], path: Path | str) -> None:
    try:
        _CERTIFICATE.validate_python(certificate)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CertificateError(f"{path}: {where}: {first['msg']}. It was not written by this version.") from error


def certificate_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a certificate file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_CERTIFICATE.json_schema()}


def render_schema() -> bytes:
    """The bytes of `workflow/schemas/certificate.schema.json`."""
    return render(certificate_schema())


if __name__ == "__main__":
    write_bytes(Path(__file__).resolve().parents[3] / SCHEMA_FILE, render_schema())
