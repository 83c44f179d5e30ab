"""Intervals for what lm-evaluation-harness measured, from the samples that it logs (docs/bounds.md, "Error bars").

`lm_eval --log_samples` writes one JSON line per document and filter, with each metric's value under the metric's name:
`[log-likelihood in nats, count]` for losses per byte and per word, a number in [0, 1] for accuracies. Here documents
are i.i.d. draws from their source, and the model does not depend on them; nothing in the file can tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tokenbounds.bounds.ratio import ratio_interval
from tokenbounds.bounds.sampling import lower_mean, upper_mean
from tokenbounds.certificates.intervals import Interval
from tokenbounds.errors import CertificateError, ScoreError
from tokenbounds.files import parse_json

_UNITS = {"bits_per_byte": "byte", "byte_perplexity": "byte", "word_perplexity": "word"}
_ACCURACIES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
_NO_FILTER = "none"
_MOST = 1 << 53  # nats, bytes or words: beyond any document
_LONGEST_LINE = 1 << 28  # bytes; a line holds its document three times


@dataclass(frozen=True)
class Unit:
    """Limits for losses per byte, or per word, that are known before the documents are seen.

    Attributes
    ----------
    longest
        The most bytes, or words, that a document may have.
    ceiling
        The most bits that a document may cost per byte, or per word. A model's probabilities have no lower limit, so
        nothing else limits a loss.
    """

    longest: int
    ceiling: float


@dataclass(frozen=True)
class Question:
    """What is asked about logged samples.

    Attributes
    ----------
    delta
        Failure probability of all intervals together.
    units
        By "byte" and "word". Losses per a unit that is absent get no interval.
    bits
        Of the message that decodes to the model, which may then depend on the documents; 0 for one that does not.
    """

    delta: float = 0.05
    units: dict[str, Unit] = field(default_factory=dict)
    bits: int = 0


@dataclass(frozen=True)
class Answer:
    """Intervals, all true together, and what else the file holds.

    Attributes
    ----------
    intervals
        One for each metric; the filter follows in brackets, if there is one.
    without
        Metrics that have no interval.
    documents
        How many there are.
    """

    intervals: list[Interval]
    without: list[str]
    documents: int


@dataclass
class _Filtered:
    """Values by metric, in the order of the documents: [n] for accuracies, [n, 2] for losses in bits and counts."""

    values: dict[str, list[Any]]
    others: list[str]
    documents: dict[int, None] = field(default_factory=dict)


def lm_eval_intervals(path: Path, question: Question) -> Answer:
    """Two-sided intervals for new documents of the source: losses per byte and word, and accuracies.

    The perplexities and bits per byte are ratios of expectations, E[loss] / E[bytes], as in lm-evaluation-harness: long
    documents count for their length (`bounds.ratio`). Accuracies are means over documents (`bounds.sampling`). Delta is
    shared equally among the sides of all quantities; bits per byte and byte perplexity are one quantity. Each side pays
    for the message's bits.

    Parameters
    ----------
    path
        `samples_TASK_DATE.jsonl`.
    question
        What is asked.

    Raises
    ------
    CertificateError
        If a document is longer, or costs more, than was stated.
    ScoreError
        If a line is not a sample, a document occurs twice, a metric is missing, or there is nothing to bound.
    """
    filters = _read_filters(path)
    quantities: list[tuple[str, list[str]]] = []  # filter, and the metrics that one quantity is printed as
    without: list[str] = []
    for name, found in filters.items():
        without += [_title(metric, name) for metric in found.others]
        for unit in ("byte", "word"):
            metrics = [metric for metric in found.values if _UNITS.get(metric) == unit]
            if unit in question.units and metrics:
                quantities.append((name, metrics))
            else:
                without += [_title(metric, name) for metric in metrics]
        quantities += [(name, [metric]) for metric in found.values if metric in _ACCURACIES]
    if not quantities:
        named = f" It has {', '.join(without)}." if without else ""
        raise ScoreError(
            f"{path}: no accuracy, and no loss whose documents are limited.{named} For bits per byte and byte "
            "perplexity state --longest-document, for word perplexity --longest-words."
        )
    each, nats = question.delta / (2 * len(quantities)), question.bits * math.log(2.0)
    intervals: list[Interval] = []
    for name, metrics in quantities:
        found = filters[name]
        values = np.array(found.values[metrics[0]], dtype=np.float64)
        if metrics[0] in _ACCURACIES:
            span = (
                float(values.mean()),
                max(0.0, lower_mean(values, 0.0, 1.0, each, nats)),
                upper_mean(values, 0.0, 1.0, each, nats),
            )
        else:
            unit = _UNITS[metrics[0]]
            _check_limits(values, list(found.documents), unit, question.units[unit])
            limits = question.units[unit]
            span = ratio_interval(values[:, 0], values[:, 1], limits.ceiling, limits.longest, each, nats)
        for metric in metrics:
            ends = [2.0**end if metric.endswith("perplexity") else end for end in span]
            intervals.append(Interval(_title(metric, name), *ends))
    return Answer(intervals, without, len({document for found in filters.values() for document in found.documents}))


def _title(metric: str, name: str) -> str:
    return metric if name == _NO_FILTER else f"{metric} ({name})"


def _check_limits(values: np.ndarray, documents: list[int], name: str, unit: Unit) -> None:
    losses, counts = values.T
    option = "--longest-document" if name == "byte" else "--longest-words"
    if counts.max() > unit.longest:
        raise CertificateError(
            f"document {documents[int(counts.argmax())]} has {counts.max():.0f} {name}s, but {option} states "
            f"at most {unit.longest}. State a limit that was fixed before the documents were seen."
        )
    if not counts.any():
        raise ScoreError(f"no document has a {name}. There is nothing to divide the losses by.")
    excess = losses - unit.ceiling * counts
    if excess.max() > 0:
        worst = int(excess.argmax())
        option = "--ceiling" if name == "byte" else "--word-ceiling"
        raise CertificateError(
            f"document {documents[worst]} costs {losses[worst]:.1f} bits for {counts[worst]:.0f} {name}s, more than "
            f"the {unit.ceiling:g} bits per {name} that {option} allows. State a ceiling that was fixed "
            "before the documents were scored."
        )


def _read_filters(path: Path) -> dict[str, _Filtered]:
    filters: dict[str, _Filtered] = {}
    for line, sample in _read_lines(path):
        where = f"{path}, line {line}"
        document, name = sample.get("doc_id"), sample.get("filter", _NO_FILTER)
        if type(document) is not int or not isinstance(name, str):
            raise ScoreError(f"{where}: no number under doc_id, or no name under filter. Log the samples again.")
        if name not in filters:
            known = [metric for metric in (*_UNITS, *_ACCURACIES) if metric in sample]
            listed = sample.get("metrics")
            others = [str(each) for each in listed if each not in known] if isinstance(listed, list) else []
            filters[name] = _Filtered({metric: [] for metric in known}, others)
        found = filters[name]
        if document in found.documents:
            raise ScoreError(
                f"{where}: document {document} occurs twice with the filter {name!r}. Files of several runs are not "
                "one sample; give one of them."
            )
        found.documents[document] = None
        for metric, values in found.values.items():
            if metric not in sample:
                raise ScoreError(f"{where}: document {document} has no {metric}, and others do. Log the samples again.")
            values.append(_read_value(sample[metric], metric, f"{where}: {metric} of document {document}"))
        pairs = [values[-1] for metric, values in found.values.items() if _UNITS.get(metric) == "byte"]
        if any(pair != pairs[0] for pair in pairs):
            raise ScoreError(f"{where}: bits_per_byte and byte_perplexity differ. Log the samples again.")
    if not filters:
        raise ScoreError(f"{path} is empty. Run lm_eval with --log_samples and --output_path.")
    return filters


def _read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise ScoreError(f"{path} is no file. Give the samples_TASK_DATE.jsonl that lm_eval --log_samples wrote.")
    with path.open("rb") as stream:
        number = 0
        while text := stream.readline(_LONGEST_LINE + 1):
            number += 1
            if len(text) > _LONGEST_LINE:
                raise ScoreError(f"{path}, line {number} is longer than {_LONGEST_LINE} bytes. Split its document.")
            if not text.strip():
                continue
            try:
                sample = parse_json(text)
            except ValueError as error:
                raise ScoreError(f"{path}, line {number} is not JSON ({error}). Log the samples again.") from error
            if not isinstance(sample, dict):
                raise ScoreError(f"{path}, line {number} is not a JSON object. Give a file of lm_eval --log_samples.")
            yield number, sample


def _read_value(value: Any, metric: str, what: str) -> Any:
    """An accuracy in [0, 1]; or a loss in bits and the number of units that it is for."""
    if metric in _ACCURACIES:
        if isinstance(value, bool | int | float) and 0 <= value <= 1:
            return float(value)
        raise ScoreError(f"{what} is not a number from 0 to 1. Only such accuracies have an interval.")
    match value:
        case [int() | float() as nats, int() as count] if -_MOST <= nats <= 0 <= count <= _MOST:
            return -nats / math.log(2.0), count
    raise ScoreError(
        f"{what} is not a finite log-likelihood, at most 0, with its number of {_UNITS[metric]}s. Score it again."
    )
