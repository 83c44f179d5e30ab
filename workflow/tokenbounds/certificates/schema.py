"""The certificate: the one type that is computed, written, read, verified, printed and tabulated.

The JSON schema `workflow/schemas/certificate.schema.json` is generated from these types, by
`python -m tokenbounds.certificates.schema`; `docs/certificates.md` explains every field. Keys of the JSON are names of
fields, except for the few with an alias. A field with a default is absent from the JSON where it has that default.
`file_records` has the types of what a certificate rests on; `sealing` reads and writes files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator, TypeAdapter, WithJsonSchema, with_config
from pydantic.json_schema import SkipJsonSchema

from tokenbounds.bounds.kinds import BoundKind, Metric
from tokenbounds.certificates.faithfulness import Faithfulness
from tokenbounds.certificates.file_records import (
    STRICT,
    BaseRecord,
    EvidenceRecord,
    ExactFraction,
    FileRecord,
    Name,
    Sha256,
    absent,
)
from tokenbounds.config import BoundsSpec
from tokenbounds.files import canonical_json, write_bytes

SCHEMA_VERSION: Literal[1] = 1
SCHEMA_FILE = Path("workflow/schemas/certificate.schema.json")
_BOUNDS_SPEC = TypeAdapter(BoundsSpec)
_LATER = ("faithfulness", "include_tolerance", "centre_order")


def dump_settings(spec: BoundsSpec) -> dict[str, Any]:
    """All settings; those that came later only where they are asked for."""
    content: dict[str, Any] = _BOUNDS_SPEC.dump_python(spec, mode="json")
    return {key: value for key, value in content.items() if value or key not in _LATER}


Probability = Annotated[float, Field(ge=0, le=1)]
MetricName = Annotated[
    Metric,
    PlainValidator(Metric),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(bpd|top[1-9][0-9]*_error)$",
            "description": "bpd (bits per token) or top{k}_error (a probability)",
        }
    ),
]
BoundName = Annotated[
    BoundKind,
    WithJsonSchema(
        {"type": "string", "enum": [kind.value for kind in BoundKind], "description": "the theorem, by its name"}
    ),
]
Settings = Annotated[
    BoundsSpec,
    PlainSerializer(dump_settings),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": True,
            "description": "the bounds row of the study: metrics, bounds and grids",
        }
    ),
]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Link:
    """One of the averages that a row with a chain is the weighted sum of."""

    messages: Annotated[tuple[Name, ...], Field(min_length=1, description="names of the messages that it depends on")]
    alphas: Annotated[tuple[Probability, ...], Field(min_length=1, description="weight of what each is mixed with")]
    beta: Annotated[float, Field(ge=0, le=1, description="part of the model below's loss that it subtracts")]
    weight: Annotated[float, Field(gt=0, le=1, description="factor of its value in the row's value")]
    lambda_: Annotated[float, Field(alias="lambda", description="λ chosen from the grid")]
    value: Annotated[float, Field(description="bound of the link's average, bits")]
    empirical: Annotated[float, Field(description="the link's average over the scored tokens, bits")]
    complexity: Annotated[float, Field(ge=0, description="L of the link, nats")]
    range: Annotated[float, Field(gt=0, description="largest value of the link, bits")]
    delta: Annotated[Probability, Field(description="the link's share of delta_generalization")]
    kappa: Annotated[
        float,
        Field(
            ge=0,
            description="factor of the entropy of its last model's prediction in a token's centre",
            json_schema_extra=absent,
        ),
    ] = 0.0


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Row:
    """One statement: an upper bound on one metric, and what it is made of."""

    metric: MetricName
    bound: BoundName
    value: Annotated[float, Field(description="the certified upper bound, in the metric's unit")]
    empirical: Annotated[float, Field(description="average over the scored tokens, or documents, in the metric's unit")]
    gap: Annotated[float, Field(description="value − empirical")]
    complexity: Annotated[float, Field(ge=0, description="L in nats: message, α and λ prices, ln(1/delta)")]
    range: Annotated[float, Field(gt=0, description="Δ: the loss's range, in the metric's unit")]
    alpha: Annotated[Probability | None, Field(description="smoothing chosen from the grid; null for top-k")]
    lambda_: Annotated[float | None, Field(alias="lambda", description="λ chosen from the grid; null for azuma")]
    sampling: Annotated[float, Field(ge=0, description="part of the gap owed to sampling the corpus")]
    random_guess: Annotated[
        float,
        Field(
            gt=0,
            description="uniform guessing: log2 n or 1 − k/n, n the smaller of V and the tokenizer's vocabulary",
        ),
    ]
    vacuous: Annotated[bool, Field(description="whether value ≥ random_guess")]
    delta: Annotated[Probability, Field(description="failure probability of this row")]
    alphas: Annotated[
        tuple[Probability, ...],
        Field(description="weights that the message's head chose from, by token", json_schema_extra=absent),
    ] = ()
    kappa: Annotated[
        float,
        Field(
            ge=0,
            description="factor of the prediction's entropy (with bounds.centre_order: of its cross-entropy) in a "
            "token's centre; for errors the one with most wealth, or on a sample the one that was chosen",
            json_schema_extra=absent,
        ),
    ] = 0.0
    tolerance: Annotated[
        float,
        Field(
            ge=0,
            description="part of value that allows for the rounding of other machines, in the metric's unit",
            json_schema_extra=absent,
        ),
    ] = 0.0
    links: Annotated[
        tuple[Link, ...],
        Field(description="telescoped, mixture and control_variates rows only", json_schema_extra=absent),
    ] = ()

    @property
    def share_of_guess(self) -> float:
        """The bound as a share of the risk of random guessing; below one means non-vacuous."""
        return self.value / self.random_guess

    @property
    def cheaper_messages(self) -> tuple[str, ...]:
        """Names of the other messages that the row depends on; none without a chain."""
        return self.links[-1].messages[:-1] if self.links else ()

    @property
    def mixed_messages(self) -> tuple[str, ...]:
        """Names of the messages that the certified model is mixed with; control variates leave it as it is."""
        return self.cheaper_messages if self.bound.mixes else ()


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One line of a row's ledger."""

    name: Annotated[str, Field(description="what is paid for")]
    amount: Annotated[
        int | float | ExactFraction, Field(description="exact fraction as text for a probability, otherwise a number")
    ]
    unit: Literal["probability", "candidates", "bits", "nats", "documents", "sequences", "certificates"]
    link: Annotated[
        Annotated[int, Field(ge=1)] | SkipJsonSchema[None],
        Field(description="which of the row's links pays, from 1", json_schema_extra=absent),
    ] = None

    @property
    def title(self) -> str:
        """What is paid for, in words: "lambda grid", "link 2 message"."""
        words = self.name.replace("_", " ")
        return words if self.link is None else f"link {self.link} {words}"


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """What one row spends: its share of delta, and its complexity by part."""

    metric: MetricName
    bound: BoundName
    entries: Annotated[tuple[LedgerEntry, ...], Field(min_length=1)]

    def probabilities(self) -> tuple[Fraction, list[Fraction]]:
        """The row's delta and the parts that it is spent on, exactly.

        Raises
        ------
        ValueError, ZeroDivisionError
            If a probability is not a fraction, or there is no delta.
        """
        shares = [(each, Fraction(str(each.amount))) for each in self.entries if each.unit == "probability"]
        total = [share for each, share in shares if each.name == "delta" and each.link is None]
        if len(total) != 1:
            raise ValueError(f"{len(total)} entries 'delta' of the whole row")
        return total[0], [share for each, share in shares if each.name != "delta" or each.link is not None]

    @property
    def paid_bits(self) -> int:
        """Bits of all messages that the row depends on. Links come in order, and the last depends on all of them."""
        return next((int(each.amount) for each in reversed(self.entries) if each.name == "message"), 0)


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Ledger:
    """How delta is split over the rows of the same object."""

    delta: Annotated[ExactFraction, Field(description="failure probability of these rows together, an exact fraction")]
    rows: Annotated[tuple[LedgerRow, ...], Field(min_length=1)]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Stated:
    """Rows, and the ledger that pays for each of them."""

    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    ledger: Ledger

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics stated, in reading order."""
        return tuple(sorted({row.metric for row in self.rows}, key=lambda metric: metric.order))

    @property
    def kinds(self) -> tuple[BoundKind, ...]:
        """The kinds of bounds stated, in the order of the rows."""
        return tuple(dict.fromkeys(row.bound for row in self.rows))

    def row(self, metric: Metric, bound: BoundKind | None = None) -> Row | None:
        """The row of `metric` by `bound`, or by the smallest bound over tokens; None if there is none."""
        rows = [row for row in self.rows if row.metric == metric and bound in (None, row.bound)]
        return min(rows, key=lambda row: (not row.bound.by_token, row.value), default=None)

    @property
    def best(self) -> Row:
        """The row to quote: the smallest bound over tokens on bits per token, or on the first metric."""
        first = self.metrics[0]
        return min(
            (row for row in self.rows if row.metric == first), key=lambda row: (not row.bound.by_token, row.value)
        )

    def paid_bits(self, row: Row) -> int:
        """Bits of all messages that a row pays for: none if held out, several if it uses a chain."""
        return next(
            (each.paid_bits for each in self.ledger.rows if (each.metric, each.bound) == (row.metric, row.bound)), 0
        )


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Subset(Stated):
    """The rows over the tokens with one label."""

    column: Annotated[str, Field(description="column of labels in the score files")]
    label: Annotated[str, Field(description="the label's name")]
    tokens: Annotated[int, Field(ge=1, description="tokens with this label: m of these rows")]
    repeats: Annotated[
        tuple[str, str] | SkipJsonSchema[None],
        Field(
            description="column and label of an earlier subset with the same tokens, whose rows and ledger these are: "
            "they are paid for there",
            json_schema_extra=absent,
        ),
    ] = None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ReferenceRecord:
    """A corpus by reference: of how many documents it consists, and what was drawn to bound its averages and size."""

    documents: Annotated[int, Field(ge=1, description="D: documents of the whole corpus")]
    max_tokens: Annotated[int, Field(ge=1, description="tokens after which each is cut")]
    drawn: Annotated[int, Field(ge=1, description="documents drawn, with replacement")]
    seed: Annotated[int, Field(ge=0, description="of the draw")]
    delta: Annotated[ExactFraction, Field(description="failure probability of the lower bound on the tokens")]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Certificate(EvidenceRecord, Stated):
    """A certificate of how well a compressed model predicts the corpus's source."""

    schema_version: Literal[1]
    name: Annotated[Name, Field(alias="certificate", description="the certificate's row in the study")]
    study: Name
    corpus: Name
    model: Name
    tokens: Annotated[
        int, Field(ge=1, description="m: tokens of the corpus; of one by reference a lower confidence bound on them")
    ]
    scored_tokens: Annotated[int, Field(ge=1, description="distinct tokens scored")]
    vocabulary_size: Annotated[int, Field(ge=2, description="V")]
    delta: Annotated[
        Probability, Field(description="total failure probability of all rows together, subsets' included")
    ]
    settings: Annotated[Settings, Field(alias="bounds")]
    subsets: Annotated[
        tuple[Subset, ...],
        Field(min_length=1, description="rows over labelled tokens", json_schema_extra=absent),
    ] = ()
    faithfulness: Annotated[
        Faithfulness | SkipJsonSchema[None],
        Field(description="how far the model strays from the original", json_schema_extra=absent),
    ] = None
    reference: Annotated[
        ReferenceRecord | SkipJsonSchema[None],
        Field(description="of a corpus by reference", json_schema_extra=absent),
    ] = None
    notes: tuple[str, ...]
    assumptions: Annotated[tuple[str, ...], Field(min_length=1)]
    software: dict[str, str]
    certificate_sha256: Annotated[Sha256, Field(description="hash of the rest of the certificate, canonical JSON")]
    path: Annotated[SkipJsonSchema[Path | None], Field(exclude=True)] = field(default=None, compare=False)
    """Where it was read from, which is not part of it; files it names are relative to that folder."""

    @property
    def models(self) -> tuple[BaseRecord, ...]:
        """The models that it names by the hash of their values, each once: bases, and an original."""
        original = () if self.faithfulness is None else (self.faithfulness.original,)
        return tuple({each.sha256: each for each in (*self.bases, *original)}.values())

    def subset(self, column: str, label: str) -> Subset | None:
        """The statements about one label; None if there are none."""
        return next((one for one in self.subsets if (one.column, one.label) == (column, label)), None)

    def locate(self, record: FileRecord) -> Path:
        """Where a file that the certificate names is, seen from where the certificate was read."""
        assert self.path is not None, "a certificate that was not read from a file has no folder"
        return self.path.parent / record.file


CERTIFICATE: TypeAdapter[Certificate] = TypeAdapter(Certificate)
"""Reads and writes the JSON of a certificate."""


def certificate_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a certificate file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **CERTIFICATE.json_schema()}


def render_schema() -> bytes:
    """The bytes of `workflow/schemas/certificate.schema.json`."""
    return (canonical_json(certificate_schema(), indent=2) + "\n").encode()


if __name__ == "__main__":
    write_bytes(Path(__file__).resolve().parents[3] / SCHEMA_FILE, render_schema())
