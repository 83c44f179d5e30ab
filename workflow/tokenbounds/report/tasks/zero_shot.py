"""Zero-shot tasks next to certificates: do models with better bounds do better at what they are used for?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from tokenbounds.bounds.kinds import BPD
from tokenbounds.certificates.schema import Certificate
from tokenbounds.report import style
from tokenbounds.report.drawing import Axes, Figure, MaxNLocator
from tokenbounds.report.tasks.generation import Answers
from tokenbounds.tasks.zero_shot import summarize

_REALS = ("value", "low", "high", "guess")
SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("task", "message", "measure"), pl.String()),
    "questions": pl.Int64(),
    **dict.fromkeys(_REALS, pl.Float64()),
    "certified_corpus": pl.String(),
    "certified_bpd": pl.Float64(),
}
CORRELATION_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("corpus", "task", "measure"), pl.String()),
    "models": pl.Int64(),
    **dict.fromkeys(("pearson", "low", "high"), pl.Float64()),
}
HELD_OUT = "held out"  # as a task: bits per token on a corpus that the model never saw

# Radford et al., 2019, "Language models are unsupervised multitask learners", table 3: perplexity on WikiText-103,
# accuracy on LAMBADA in per cent, of four sizes.
PUBLISHED_GPT2 = (
    ("GPT-2 117M", 37.50, 45.99),
    ("GPT-2 345M", 26.37, 55.48),
    ("GPT-2 762M", 22.05, 60.12),
    ("GPT-2 1542M", 17.48, 63.24),
)
_FEWEST = 4
_WIDTH_INCHES = 7.2
_NAMES = {
    "accuracy": "right choices",
    "accuracy_per_token": "right choices, per token",
    "accuracy_per_byte": "right choices, per byte",
    "predicted": "words predicted",
    "bits_per_answer": "bits per word",
    "bits_per_token": "bits per token",
}


def zero_shot_table(results: Sequence[Answers], certificates: Sequence[Certificate]) -> pl.DataFrame:
    """One row per task, message and measure (`SCHEMA`), each with the message's certificate.

    Held-out losses of the same messages are further rows, of the task `held out` and the corpus: measured bits per
    token, from certificates with `prior: held_out`, whose interval is not known here. `certified_bpd` is the best bound
    of the message's first certificate, by name, that pays for its bits.
    """
    certified = {}
    for one in sorted(certificates, key=lambda one: one.name, reverse=True):
        row = one.row(BPD)
        if one.prior.kind == "message" and row is not None:
            certified[one.message.name] = {"certified_corpus": one.corpus, "certified_bpd": row.value}
    rows: list[dict[str, Any]] = []
    for result in results:
        if result.task.kind == "zero_shot":
            for measured in summarize(result.frame, resamples=result.task.resamples, seed=result.task.seed):
                rows.append({"task": result.name, "message": result.message, **measured})
    tested = {row["message"] for row in rows}
    for one in certificates:
        row = one.row(BPD)
        if one.prior.held_out and row is not None and one.message.name in tested:
            place = {"task": f"{HELD_OUT}, {one.corpus}", "message": one.message.name, "measure": "bits_per_token"}
            rows.append({**place, "questions": one.scored_tokens, "value": row.empirical})
    return pl.DataFrame([row | certified.get(row["message"], {}) for row in rows], schema=SCHEMA)


def correlation_table(table: pl.DataFrame) -> pl.DataFrame:
    """Pearson's correlation over models of certified bits per token with each measure (`CORRELATION_SCHEMA`).

    Models whose certificates are about one corpus are compared. The 95 % interval is Fisher's, from the inverse
    hyperbolic tangent of the coefficient: rough for few models, which are no sample of anything. Null for fewer than
    four models.
    """
    rows = []
    known = table.filter(pl.col("certified_bpd").is_not_null())
    for (corpus, task, measure), part in known.group_by("certified_corpus", "task", "measure", maintain_order=True):
        if part.height < 2:
            continue
        found = correlate(part["certified_bpd"].to_list(), part["value"].to_list())
        place = {"corpus": corpus, "task": task, "measure": measure, "models": part.height}
        rows.append({**place, **dict(zip(("pearson", "low", "high"), found, strict=True))})
    return pl.DataFrame(rows, schema=CORRELATION_SCHEMA).with_columns(pl.col("pearson", "low", "high").fill_nan(None))


def correlate(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Pearson's coefficient of two lists [n], and Fisher's 95 % interval; NaN where they are not defined."""
    if len(first) < _FEWEST or min(np.ptp(first), np.ptp(second)) == 0:
        return math.nan, math.nan, math.nan
    value = float(np.clip(np.corrcoef(first, second)[0, 1], -1.0, 1.0))
    reach = float(stats.norm.ppf(0.975)) / math.sqrt(len(first) - 3)
    centre = math.atanh(max(-1 + 1e-15, min(1 - 1e-15, value)))
    return value, math.tanh(centre - reach), math.tanh(centre + reach)


def draw_zero_shot(table: pl.DataFrame) -> Figure:
    """Each measure against the certified bound, a panel each; in the last one the published GPT-2 models."""
    known = table.filter(pl.col("certified_bpd").is_not_null() & ~pl.col("measure").is_in(["accuracy_per_token"]))
    groups = known.partition_by("task", "measure", maintain_order=True)
    count = len(groups) + 1
    figure = Figure(figsize=(_WIDTH_INCHES, 2.6 * math.ceil(count / 2) + 0.4), layout="constrained")
    panels = list(figure.subplots(math.ceil(count / 2), 2, squeeze=False).flat)
    colours = style.colours(known["message"].to_list())
    for axes, part in zip(panels, groups, strict=False):
        _draw_measure(axes, part, colours)
    _draw_published(panels[len(groups)])
    for axes in panels[count:]:
        axes.set_visible(False)
    handles = [
        panels[0].plot([], [], color=colour, marker="o", linewidth=0, label=name)[0] for name, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=8.5)
    return figure


def _draw_measure(axes: Axes, part: pl.DataFrame, colours: dict[str, str]) -> None:
    is_share = part["measure"][0] not in ("bits_per_answer", "bits_per_token")
    scale = 100.0 if is_share else 1.0
    for row in part.iter_rows(named=True):
        x, y = row["certified_bpd"], scale * row["value"]
        if row["low"] is not None:
            axes.plot([x, x], [scale * row["low"], scale * row["high"]], color=colours[row["message"]], linewidth=1.1)
        axes.plot(x, y, color=colours[row["message"]], marker="o", markersize=5)
    if part["guess"][0] is not None:
        axes.axhline(scale * part["guess"][0], color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)))
    name = _NAMES[part["measure"][0]]
    axes.set_title(part["task"][0], fontsize=9)
    axes.set_ylabel(f"{name}, %" if is_share else name)
    axes.set_xlabel("certified bits per token")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if is_share:
        axes.set_ylim(0.0, max(5.0, axes.get_ylim()[1]))


def _draw_published(axes: Axes) -> None:
    for name, perplexity, accuracy in PUBLISHED_GPT2:
        axes.plot(math.log2(perplexity), accuracy, color=style.MUTED, marker="D", markersize=4.5)
        axes.annotate(name, (math.log2(perplexity), accuracy), xytext=(5, 3), textcoords="offset points", fontsize=7.5)
    axes.set_xlim(4.0, 5.7)
    axes.set_title("published: Radford et al., 2019", fontsize=9)
    axes.set_ylabel("LAMBADA, right words, %")
    axes.set_xlabel("WikiText-103, bits per word")
