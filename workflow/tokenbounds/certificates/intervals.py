"""Error bars for stored losses: two-sided intervals without a message (docs/bounds.md, "Error bars").

Evaluation tools print losses, perplexities, bits per byte and accuracies without them. The model must not depend on the
text; nothing here can tell whether it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from tokenbounds.bounds.betting import betting_value, lambda_grid, mean_log
from tokenbounds.bounds.ratio import ratio_interval
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.certificates.external import ArrayScores, ExternalScores
from tokenbounds.errors import CertificateError, ScoreError

Floats = npt.NDArray[np.float64]

_LAMBDAS = 64


@dataclass(frozen=True)
class Interval:
    """What one quantity was measured to be, and where it is with the stated probability.

    Attributes
    ----------
    metric
        "bits per token", "perplexity", "bits per byte" or "accuracy"; or another tool's name.
    estimate
        Over what was scored; for perplexity 2 to the bits per token.
    low, high
        All intervals of a call hold together with probability 1 - delta.
    """

    metric: str
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Question:
    """What is asked about stored losses.

    Attributes
    ----------
    vocabulary_size
        V.
    delta
        Failure probability of all intervals together.
    alpha
        Smoothing weight: losses are those of (1 - alpha) p + alpha / V, so none is above log2(V / alpha).
    text_bytes
        Number of bytes of the text, for bits per byte of this text; None if unknown, or if documents are asked about.
    document_column
        Column that says which document a token is in; None for intervals about these contexts.
    longest_document
        With `document_column`: the most tokens that a document may have, fixed before the documents were seen.
    """

    vocabulary_size: int
    delta: float = 0.05
    alpha: float = 0.001
    text_bytes: int | None = None
    document_column: str | None = None
    longest_document: int | None = None


def intervals(scores: ExternalScores | ArrayScores, question: Question) -> list[Interval]:
    """Two-sided intervals for the loss of a model that never saw the text.

    Without documents they are about this text's contexts: what the next token, written afresh in each of them, costs on
    average (the betting bound with no message, on both sides). With documents they are about new documents of the
    source, if these are i.i.d.; a long document counts for its length.

    Parameters
    ----------
    scores
        The losses [m], bits; with ranks, accuracy is bounded too.
    question
        What is asked.

    Raises
    ------
    CertificateError
        If a document is longer than stated, or the question contradicts itself.
    ScoreError
        If a file or a value is not usable.
    """
    if question.document_column is not None and question.text_bytes is not None:
        raise CertificateError("bits per byte are about this text. Leave out its bytes, or the column of documents.")
    ceiling = math.log2(question.vocabulary_size / question.alpha)
    each = question.delta / (2 * (1 + scores.has_ranks))  # two sides of each quantity
    if question.document_column is not None:
        if not isinstance(scores, ExternalScores) or question.longest_document is None:
            raise CertificateError(
                "intervals over documents need files, and the most tokens that a document may have "
                "(--longest-document), fixed before the documents were seen."
            )
        sums = _document_sums(scores, question)
        tokens = sums["tokens"].to_numpy()
        spans = {
            name: ratio_interval(sums[name].to_numpy(), tokens, high, question.longest_document, each)
            for name, high in (("loss", ceiling), ("error", 1.0))
            if name in sums.columns
        }
    else:
        spans = _token_spans(scores, question, ceiling, each)
    return list(_stated(spans, question, scores.rows))


def _stated(spans: dict[str, tuple[float, float, float]], question: Question, rows: int) -> Iterator[Interval]:
    """The spans of loss and error in the words people use; monotone functions of an interval cost nothing."""
    estimate, low, high = spans["loss"]
    yield Interval("bits per token", estimate, low, high)
    yield Interval("perplexity", 2.0**estimate, 2.0**low, 2.0**high)
    if question.text_bytes is not None:
        per_byte = rows / question.text_bytes
        yield Interval("bits per byte", per_byte * estimate, per_byte * low, per_byte * high)
    if "error" in spans:
        estimate, low, high = spans["error"]
        yield Interval("accuracy", 1.0 - estimate, 1.0 - high, 1.0 - low)


def _document_sums(scores: ExternalScores, question: Question) -> pl.DataFrame:
    """Loss, errors and number of tokens of each document, by one streaming pass over the files."""
    document = question.document_column
    assert document is not None
    tables = []
    total = scores.rows  # checks the files and their columns
    for path in scores.files:
        table = pl.scan_parquet(path)
        if document not in table.collect_schema().names():
            raise ScoreError(f"{path} has no column '{document}'. Name the one that says which document a token is of.")
        loss = pl.col(scores.nll_column).cast(pl.Float64) / (math.log(2.0) if scores.nats else 1.0)
        smoothed = loss.map_batches(
            lambda losses: pl.Series(smooth(losses.to_numpy(), question.alpha, question.vocabulary_size)),
            return_dtype=pl.Float64,
        )
        columns = {"document": pl.col(document), "loss": smoothed, "valid": loss.is_finite() & (loss >= 0)}
        if scores.rank_column is not None:
            columns["error"] = (pl.col(scores.rank_column) > 1).cast(pl.Float64)
        tables.append(table.select(**columns))
    wanted = [pl.col(name).sum() for name in ("loss", "error") if name in columns]
    sums = (
        pl.concat(tables)
        .group_by("document")
        .agg(*wanted, pl.len().alias("tokens"), pl.col("valid").all().alias("valid"))
        .sort("document")
        .collect(engine="streaming")
    )
    if sums["document"].null_count():
        raise ScoreError(f"the column '{document}' has empty cells. Fill or drop those rows.")
    if not sums["valid"].all():
        name = sums.filter(~pl.col("valid"))["document"][0]
        raise ScoreError(f"document {name} has a loss that is negative or not a number. Score it again.")
    assert sums["tokens"].sum() == total
    return sums


def _token_spans(
    scores: ExternalScores | ArrayScores, question: Question, ceiling: float, delta: float
) -> dict[str, tuple[float, float, float]]:
    """Spans of the conditional means, by the betting bound from above and, for what is left to the ceiling, below."""
    quantities = {"loss": ceiling} | ({"error": 1.0} if scores.has_ranks else {})
    total = dict.fromkeys(quantities, 0.0)
    # Sums of ln(1 - lambda x) over tokens, for x the loss and x what it leaves to its ceiling  [2, lambdas].
    logs = {name: np.zeros((2, _LAMBDAS)) for name in quantities}
    rows = 0
    for batch in scores.iter_batches(["nll_bits", "rank"] if scores.has_ranks else ["nll_bits"]):
        raw = batch["nll_bits"].to_numpy(zero_copy_only=False).astype(np.float64)
        if not np.all(np.isfinite(raw)) or raw.min(initial=0.0) < 0:
            raise ScoreError("a loss is negative or not a number. Losses are -log2 of a probability.")
        values = {"loss": smooth(raw, question.alpha, question.vocabulary_size)}
        if scores.has_ranks:
            values["error"] = (batch["rank"].to_numpy(zero_copy_only=False) > 1).astype(np.float64)
        for name, high in quantities.items():
            grid = lambda_grid(_LAMBDAS, high)
            total[name] += float(values[name].sum())
            for side, losses in enumerate((values[name], high - values[name])):
                logs[name][side] += mean_log(losses, grid) * len(losses)
        rows += batch.num_rows
    if not rows:
        raise ScoreError("there is no loss. Give at least one scored token.")
    price = math.log(1.0 / delta) + math.log(_LAMBDAS)
    spans = {}
    for name, high in quantities.items():
        grid = lambda_grid(_LAMBDAS, high)
        upper, left = (
            min(float(betting_value(mean / rows, each, price, rows)) for mean, each in zip(side, grid, strict=True))
            for side in logs[name]
        )
        spans[name] = (total[name] / rows, max(0.0, high - left), min(high, upper))
    return spans
