"""Certificates as the report reads them: read through the certificate's own schema, then seen as typed rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.certificates import schema as certificate_schema
from tokenbounds.errors import CertificateError
from tokenbounds.report.formats import metric_order


@dataclass(frozen=True)
class BoundRow:
    """One statement of a certificate: an upper bound on one metric, and what it is made of."""

    metric: str
    bound: str
    value: float
    empirical: float
    gap: float
    random_guess: float
    vacuous: bool
    complexity: float
    range: float
    alpha: float | None
    lambda_: float | None
    sampling: float
    delta: float
    paid_bits: int = 0
    links: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    alphas: tuple[float, ...] = ()

    @property
    def token_level(self) -> bool:
        """Whether it bounds the average over this corpus's tokens, rather than a new document's or sequence's loss."""
        return BoundKind(self.bound).by_token

    @property
    def share_of_guess(self) -> float:
        """The bound as a share of the risk of random guessing; below one means non-vacuous."""
        return self.value / self.random_guess


@dataclass(frozen=True)
class SubsetRows:
    """The statements of a certificate about the tokens with one label of a column."""

    column: str
    label: str
    tokens: int
    rows: tuple[BoundRow, ...]

    def row(self, metric: str) -> BoundRow | None:
        """The row of `metric` by whichever bound over tokens is smallest; None if there is none."""
        rows = [row for row in self.rows if row.metric == metric]
        return min(rows, key=lambda row: (not row.token_level, row.value), default=None)


@dataclass(frozen=True)
class Certificate:
    """A certificate file and the values the report shows; `raw` is the whole JSON."""

    path: Path
    name: str
    study: str
    corpus: str
    model: str
    message: str
    message_bits: int
    tokens: int
    vocabulary_size: int
    delta: float
    rows: tuple[BoundRow, ...]
    raw: dict[str, Any] = field(repr=False)
    subsets: tuple[SubsetRows, ...] = ()

    def subset(self, column: str, label: str) -> SubsetRows | None:
        """The statements about one label; None if there are none."""
        found = (one for one in self.subsets if (one.column, one.label) == (column, label))
        return next(found, None)

    def row(self, metric: str, bound: str | None = None) -> BoundRow | None:
        """The row of `metric` by `bound`, or by whichever bound over tokens is smallest; None if there is none."""
        rows = [row for row in self.rows if row.metric == metric and bound in (None, row.bound)]
        return min(rows, key=lambda row: (not row.token_level, row.value), default=None)

    @property
    def prior(self) -> str:
        """`message` if its messages' bits are paid for, `held_out` if the models never saw the corpus."""
        return str(self.raw["prior"]["kind"])

    def competes(self, row: BoundRow) -> bool:
        """Whether one of its rows may be called best beside those of other certificates: alike in what it assumes."""
        return self.prior == "message" and row.token_level

    @property
    def breakdown(self) -> dict[str, int]:
        """Bits by part of the message and, for a refinement, of the coarse message; they sum to `message_bits`."""
        return _breakdown(self.raw)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of this certificate in reading order."""
        return tuple(sorted({row.metric for row in self.rows}, key=metric_order))

    @property
    def bounds(self) -> tuple[str, ...]:
        """The bounds of this certificate, in the file's order."""
        return tuple(dict.fromkeys(row.bound for row in self.rows))

    @property
    def token(self) -> str:
        """What a token of this corpus is called: "byte" if the tokenizer has one token a byte."""
        return "byte" if self.raw["manifest"]["tokenizer"].get("identity") in ("byte", "bytes") else "token"


def read_certificate(path: Path | str) -> Certificate:
    """Read one certificate.

    Raises
    ------
    CertificateError
        If the file is missing, is no certificate, is damaged, or contradicts itself; the message names file and key.
    """
    raw = certificate_schema.read_certificate(path)
    return Certificate(
        path=Path(path),
        name=raw["certificate"],
        study=raw["study"],
        corpus=raw["corpus"],
        model=raw["model"],
        message=raw["message"]["name"],
        message_bits=sum(_breakdown(raw).values()),
        tokens=raw["tokens"],
        vocabulary_size=raw["vocabulary_size"],
        delta=raw["delta"],
        rows=tuple(_bound_row(path, index, row, _paid_bits(raw, row)) for index, row in enumerate(raw["rows"])),
        raw=raw,
        subsets=tuple(_subset_rows(path, record) for record in raw.get("subsets", ())),
    )


def read_certificates(paths: Iterable[Path | str]) -> list[Certificate]:
    """Read certificates, sorted by corpus, then by message size, then by name.

    Raises
    ------
    CertificateError
        If one cannot be read, two have the same name, or there is none.
    """
    certificates = [read_certificate(path) for path in paths]
    if not certificates:
        raise CertificateError("there is no certificate to report. Name at least one under 'certificates' and run it.")
    seen: dict[str, Path] = {}
    for certificate in certificates:
        if certificate.name in seen:
            raise CertificateError(
                f"{certificate.path} and {seen[certificate.name]} are both named '{certificate.name}'. Rename one."
            )
        seen[certificate.name] = certificate.path
    return sorted(certificates, key=lambda one: (one.corpus, one.message_bits, one.name))


def short_labels(certificates: Sequence[Certificate]) -> dict[str, str]:
    """Label of each certificate (by its name) in figures: its message's name where that is unambiguous."""
    messages = [certificate.message for certificate in certificates]
    return {one.name: one.message if messages.count(one.message) == 1 else one.name for one in certificates}


def best_values(certificates: Sequence[Certificate]) -> dict[str, float]:
    """The smallest value of each metric, among the rows that may be called best; among all if there is none such."""
    pairs = [(one, row) for one in certificates for row in one.rows]
    best: dict[str, float] = {}
    for metric in dict.fromkeys(row.metric for _, row in pairs):
        rows = [(one.competes(row), row.value) for one, row in pairs if row.metric == metric]
        best[metric] = min(value for competes, value in rows if competes or not any(each for each, _ in rows))
    return best


def _breakdown(raw: dict[str, Any]) -> dict[str, int]:
    message = raw["message"]
    beneath = {"coarse message": message["coarse"]["size_bits"]} if "coarse" in message else {}
    return {**message["breakdown"], **beneath}


def _paid_bits(raw: dict[str, Any], row: dict[str, Any]) -> int:
    """Bits of the messages that a row pays for: of its last link, if it has links."""
    name = f"link{len(row['links'])}_message" if "links" in row else "message"
    for each in raw["ledger"]["rows"]:
        if (each["metric"], each["bound"]) == (row["metric"], row["bound"]):
            return sum(int(entry["amount"]) for entry in each["entries"] if entry["name"] == name)
    return 0


def _subset_rows(path: Path | str, record: dict[str, Any]) -> SubsetRows:
    paid_bits = _paid_bits(record, record["rows"][0])
    rows = (_bound_row(path, index, row, paid_bits) for index, row in enumerate(record["rows"]))
    return SubsetRows(record["column"], record["label"], record["tokens"], tuple(rows))


def _bound_row(path: Path | str, index: int, raw: dict[str, Any], paid_bits: int) -> BoundRow:
    if raw["random_guess"] <= 0:
        raise CertificateError(f"{path}: rows[{index}].random_guess must be positive. Make the certificate again.")
    if raw["vacuous"] != (raw["value"] >= raw["random_guess"]):
        raise CertificateError(f"{path}: rows[{index}].vacuous contradicts its value. Make the certificate again.")
    plain = {key: value for key, value in raw.items() if key not in ("lambda", "links", "alphas")}
    links, alphas = (tuple(raw.get(key, ())) for key in ("links", "alphas"))
    return BoundRow(lambda_=raw["lambda"], paid_bits=paid_bits, links=links, alphas=alphas, **plain)
