"""Tables of antibody models: in the paper's form, region by region, position by position, task by task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tokenbounds.bounds.kinds import BPD, Metric
from tokenbounds.certificates.schema import Certificate, Row
from tokenbounds.config import AffinityTask, RecoveryTask, TaskSpec
from tokenbounds.errors import TokenboundsError
from tokenbounds.files import read_json
from tokenbounds.report.formats import quantizer_name
from tokenbounds.report.records import metrics_of
from tokenbounds.tasks.affinity import correlate_variants
from tokenbounds.tasks.recovery import summarize_recovery

POSITION_COLUMN = "imgt"
REGIONS = ("FWR1", "CDR1", "FWR2", "CDR2", "FWR3", "CDR3", "FWR4")
_TEXT, _INT, _REAL, _FLAG = pl.String(), pl.Int64(), pl.Float64(), pl.Boolean()
_WHO: dict[str, pl.DataType] = {
    **dict.fromkeys(("certificate", "corpus", "model", "message", "prior"), _TEXT),
    "message_bits": _INT,
    "bits_per_weight": _REAL,
}
_ROW: dict[str, pl.DataType] = {
    **{"metric": _TEXT, "bound": _TEXT},
    **dict.fromkeys(("value", "empirical", "random_guess", "row_delta"), _REAL),
    "vacuous": _FLAG,
}
SUBSET_SCHEMA = {**_WHO, "column": _TEXT, "label": _TEXT, "tokens": _INT, **_ROW}
_MESSAGE: dict[str, pl.DataType] = {"message": _TEXT, "model": _TEXT, "quantizer": _TEXT, "bits_per_weight": _REAL}
_SHARES = ("recovered", "recovered_stepwise")
RECOVERY_SCHEMA = {
    **{"task": _TEXT, "corpus": _TEXT},
    **_MESSAGE,
    **{"region": _TEXT, "sequences": _INT, "residues": _INT},
    **{f"{name}{end}": _REAL for name in _SHARES for end in ("", "_low", "_high")},
    "bits_per_residue": _REAL,
}
AFFINITY_SCHEMA = {
    "task": _TEXT,
    **_MESSAGE,
    **{"antibody": _TEXT, "variants": _INT, "left_out": _INT, "higher_is_better": _FLAG},
    **dict.fromkeys(("spearman", "low", "high"), _REAL),
    "remarks": _TEXT,
}
QUANTIZATION_SCHEMA = {
    **_MESSAGE,
    "message_bits": _INT,
    **{"metric": _TEXT, "value": _REAL, "higher_is_better": _FLAG},
    **dict.fromkeys(("certified_bpd", "held_out_bpd"), _REAL),
}


@dataclass(frozen=True)
class MessageReport:
    """What the report of a message says: its model's row, the quantizer, and the size."""

    message: str
    model: str
    quantizer: str
    size_bits: int
    bits_per_weight: float | None

    @classmethod
    def read(cls, path: Path) -> MessageReport:
        """Read it.

        Raises
        ------
        TokenboundsError
            If the file is missing or is not such a report.
        """
        raw = read_json(path)
        try:
            row = raw["message"]
            per_weight = raw.get("bits_per_parameter")
            quantizer = quantizer_name(row["quantizer"])
            return cls(path.stem, row["model"], quantizer, int(raw["size_bits"]), per_weight)
        except (KeyError, TypeError) as error:
            raise TokenboundsError(
                f"{path} is not a report of a message ({error!r}). Encode the model again."
            ) from error

    @property
    def columns(self) -> dict[str, Any]:
        """The columns by which tables of tasks name it."""
        names = ("message", "model", "quantizer", "bits_per_weight")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TaskResult:
    """The answers of one message's model to a task."""

    name: str
    task: TaskSpec
    report: MessageReport
    frame: pl.DataFrame


def subset_table(certificates: Sequence[Certificate], reports: Mapping[str, MessageReport]) -> pl.DataFrame:
    """Every statement about labelled tokens: one row per certificate, label, metric and bound (`SUBSET_SCHEMA`).

    Units: bits per token for `bpd`, otherwise probabilities; `row_delta` is the row's share of the failure probability.
    """
    rows = [
        {
            **_who(certificate, reports),
            "column": subset.column,
            "label": subset.label,
            "tokens": subset.tokens,
            **_row(row),
        }
        for certificate in certificates
        for subset in certificate.subsets
        for row in subset.rows
    ]
    return pl.DataFrame(rows, schema=SUBSET_SCHEMA)


def model_table(certificates: Sequence[Certificate], reports: Mapping[str, MessageReport]) -> pl.DataFrame:
    """One row per certificate, as in the paper: bounds on BPD and top-k errors, and per corpus one of random guessing.

    `bpd_residues` is the bound over amino acids alone, given which tokens they are (see docs/bounds.md, "Subsets of
    tokens"), null where the certificate does not state it; `bpd_measured` is the average that was measured.
    `validation_loss`, in nats per token, was measured on what the model never saw: it is that of the message's first
    held-out certificate, by name, and null without one.
    """
    metrics = metrics_of(certificates)
    schema = {**_WHO, "tokens": _INT, **dict.fromkeys(map(str, metrics), _REAL)}
    schema |= {"bpd_measured": _REAL, "bpd_residues": _REAL, "validation_loss": _REAL, "vacuous": _FLAG}
    validation: dict[str, float] = {}  # by message
    for one in sorted(certificates, key=lambda each: each.name):
        if one.prior.held_out and (bpd := one.row(BPD)) is not None:
            validation.setdefault(one.message.name, math.log(2.0) * bpd.empirical)
    rows = []
    for corpus in dict.fromkeys(one.corpus for one in certificates):
        group = [one for one in certificates if one.corpus == corpus]
        rows += [
            {**_model_row(one, metrics, reports), "validation_loss": validation.get(one.message.name)} for one in group
        ]
        rows += [_guess_row(group, size, metrics) for size in sorted({one.vocabulary_size for one in group})]
    return pl.DataFrame(rows, schema=schema)


def _model_row(one: Certificate, metrics: Sequence[Metric], reports: Mapping[str, MessageReport]) -> dict[str, Any]:
    best = {metric: one.row(metric) for metric in metrics}
    residues = one.subset("residue", "residue")
    of_residues = residues.row(BPD) if residues is not None else None
    bpd = best.get(BPD)
    return {
        **_who(one, reports),
        "tokens": one.tokens,
        **{str(metric): row.value if row else None for metric, row in best.items()},
        "bpd_measured": bpd.empirical if bpd else None,
        "bpd_residues": of_residues.value if of_residues else None,
        "vacuous": bpd.vacuous if bpd else None,
    }


def _guess_row(group: Sequence[Certificate], size: int, metrics: Sequence[Metric]) -> dict[str, Any]:
    rows = [row for one in group if one.vocabulary_size == size for row in one.rows]
    guesses = {row.metric: row.random_guess for row in rows}
    return {"certificate": "random guessing", "corpus": group[0].corpus} | {
        str(metric): guesses.get(metric) for metric in metrics
    }


def recovery_table(results: Sequence[TaskResult]) -> pl.DataFrame:
    """Shares of residues recovered, with 95 % bootstrap intervals: one row per task, message and region."""
    rows = [
        {"task": one.name, "corpus": one.task.corpus, **one.report.columns, **row}
        for one in results
        if isinstance(one.task, RecoveryTask)
        for row in summarize_recovery(one.frame, seed=one.task.seed)
    ]
    return pl.DataFrame(rows, schema=RECOVERY_SCHEMA)


def affinity_table(results: Sequence[TaskResult]) -> pl.DataFrame:
    """Spearman's correlations with 95 % bootstrap intervals: one row per task, message and antibody; none is pooled."""
    rows = [
        {"task": one.name, **one.report.columns, "higher_is_better": one.task.higher_is_better, **row}
        for one in results
        if isinstance(one.task, AffinityTask)
        for row in correlate_variants(one.frame, one.task)
    ]
    return pl.DataFrame(rows, schema=AFFINITY_SCHEMA).with_columns(pl.col("spearman", "low", "high").fill_nan(None))


def quantization_table(
    certificates: Sequence[Certificate], reports: Mapping[str, MessageReport], results: Sequence[TaskResult]
) -> pl.DataFrame:
    """How each task fares as weights are coded in fewer bits: one row per message and metric.

    `certified_bpd` is of the message's first certificate, by name, that pays for its bits, `held_out_bpd` of the first
    that does not: the best of several would not hold at their delta.
    """
    rows = [
        {**reports[name].columns, "message_bits": reports[name].size_bits, **measure, **_bounds(certificates, name)}
        for name, measure in [*_measured(certificates), *_tried(results)]
        if name in reports
    ]
    return pl.DataFrame(rows, schema=QUANTIZATION_SCHEMA).sort("metric", "model", "bits_per_weight", nulls_last=True)


def _measured(certificates: Sequence[Certificate]) -> list[tuple[str, dict[str, Any]]]:
    """What certificates measured: loss and, where there are labels, errors at residues that are not germline."""
    found: list[tuple[str, dict[str, Any]]] = []
    for one in certificates:
        row = one.row(BPD)
        if row is not None:
            found.append((one.message.name, _measure(f"bits per token, {one.corpus}", row.empirical, False)))
        changed = one.subset("germline", "non_germline")
        error = changed.row(Metric.top(1)) if changed is not None else None
        if error is not None:
            name = f"non-germline residues missed, {one.corpus}"
            found.append((one.message.name, _measure(name, error.empirical, False)))
    return list({(name, measure["metric"]): (name, measure) for name, measure in found}.values())


def _tried(results: Sequence[TaskResult]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for row in recovery_table(results).iter_rows(named=True):
        found.append((row["message"], _measure(f"{row['region']} recovered, {row['task']}", row["recovered"], True)))
    for row in affinity_table(results).iter_rows(named=True):
        found.append((row["message"], _measure(f"Spearman, {row['antibody']}, {row['task']}", row["spearman"], True)))
    return found


def _measure(metric: str, value: float, higher_is_better: bool) -> dict[str, Any]:
    return {"metric": metric, "value": value, "higher_is_better": higher_is_better}


def _bounds(certificates: Sequence[Certificate], message: str) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for key, prior in (("certified_bpd", "message"), ("held_out_bpd", "held_out")):
        own = [one for one in certificates if (one.message.name, one.prior.kind) == (message, prior)]
        rows = (one.row(BPD) for one in sorted(own, key=lambda one: one.name))
        found[key] = next((row.value for row in rows if row is not None), None)
    return found


def _who(certificate: Certificate, reports: Mapping[str, MessageReport]) -> dict[str, Any]:
    report = reports.get(certificate.message.name)
    return {
        "certificate": certificate.name,
        "corpus": certificate.corpus,
        "model": certificate.model,
        "message": certificate.message.name,
        "prior": certificate.prior.kind,
        "message_bits": certificate.message.whole_bits,
        "bits_per_weight": report.bits_per_weight if report else None,
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "metric": str(row.metric),
        "bound": row.bound.value,
        "value": row.value,
        "empirical": row.empirical,
        "random_guess": row.random_guess,
        "vacuous": row.vacuous,
        "row_delta": row.delta,
    }
