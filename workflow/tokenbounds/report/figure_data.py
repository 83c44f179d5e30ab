"""The tidy tables behind the figures: one function per figure, explicit columns, one row per drawn mark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from tokenbounds.bounds.kinds import BPD
from tokenbounds.certificates.schema import Certificate
from tokenbounds.errors import TokenboundsError
from tokenbounds.models.online.card import is_online
from tokenbounds.report.records import short_labels

BINS_PER_OCTAVE = 4
_AXES = ("document", "window")
_LOSSES = ("nll_bits", "entropy_bits")
PART_ORDER = ("header", "side_information", "codebooks", "scales", "symbols", "container")
_MODEL_FIELDS: dict[str, pl.DataType] = {"corpus": pl.String(), "certificate": pl.String(), "label": pl.String()}


def size_table(certificates: Sequence[Certificate]) -> pl.DataFrame:
    """Bits per token against message size: one row per certificate and bound.

    `gap_complexity` and `gap_sampling` add up to `value - empirical`; all three are in bits per token.
    """
    labels = short_labels(certificates)
    # The price of a message does not show where nothing is paid for it, or where an online reference predicts most.
    paid = [
        one
        for one in certificates
        if one.prior.kind == "message" and not any(is_online(link.message.header) for link in one.chain)
    ] or certificates
    rows = [
        {
            "corpus": certificate.corpus,
            "certificate": certificate.name,
            "label": labels[certificate.name],
            "model": certificate.model,
            "bound": row.bound.value,
            "message_bits": certificate.message.whole_bits,
            "value": row.value,
            "empirical": row.empirical,
            "gap_complexity": row.gap - row.sampling,
            "gap_sampling": row.sampling,
            "random_guess": row.random_guess,
            "vacuous": row.vacuous,
        }
        for certificate in paid
        for row in certificate.rows
        if row.metric == BPD and row.bound.by_token
    ]
    numbers = ("value", "empirical", "gap_complexity", "gap_sampling", "random_guess")
    schema = {**_MODEL_FIELDS, "model": pl.String(), "bound": pl.String(), "message_bits": pl.Int64()}
    return pl.DataFrame(rows, schema={**schema, **dict.fromkeys(numbers, pl.Float64()), "vacuous": pl.Boolean()})


def anatomy_table(certificates: Sequence[Certificate]) -> pl.DataFrame:
    """Bits of each message by part: one row per message and part, parts in the order of the file."""
    rows, seen = [], set()
    for certificate in certificates:
        message = certificate.message
        if message.sha256 in seen:
            continue
        seen.add(message.sha256)
        for part, bits in sorted(message.whole_breakdown.items(), key=lambda item: part_order(item[0])):
            share = bits / message.whole_bits
            rows.append({"label": message.name, "part": part, "size_bits": bits, "share": share})
    schema = {"label": pl.String(), "part": pl.String(), "size_bits": pl.Int64(), "share": pl.Float64()}
    return pl.DataFrame(rows, schema=schema)


def part_order(part: str) -> tuple[int, str]:
    """Sort key of a message's parts: known parts in the order of the file, then the others by name."""
    return (PART_ORDER.index(part) if part in PART_ORDER else len(PART_ORDER), part)


def training_table(curves: Mapping[str, Path]) -> pl.DataFrame:
    """Training loss of each model: columns model, step, loss_bits, learning_rate.

    Raises
    ------
    TokenboundsError
        If a file is not a loss curve.
    """
    columns: dict[str, pl.DataType] = {"step": pl.Int64(), "loss_bits": pl.Float64(), "learning_rate": pl.Float64()}
    frames = [pl.DataFrame(schema={"model": pl.String(), **columns})]
    for model, path in sorted(curves.items()):
        try:
            frame = pl.read_parquet(path, columns=list(columns)).cast(columns)  # type: ignore[arg-type]
        except (pl.exceptions.PolarsError, OSError) as error:
            raise TokenboundsError(f"{path} is not a loss curve ({error}). Train model '{model}' again.") from error
        frames.append(frame.select(pl.lit(model).alias("model"), *columns).sort("step"))
    return pl.concat(frames)


def position_table(certificates: Sequence[Certificate]) -> pl.DataFrame:
    """Mean raw loss and mean entropy of predictions by position, bits, streaming over each certificate's scores.

    Positions are counted from 0 and grouped into `BINS_PER_OCTAVE` logarithmic bins per octave of (position + 1).
    `axis` is "document" (tokens of the document before this one) or "window" (tokens the model saw). A block counts
    as often as it was drawn. Where scores hold no entropies, `entropy_bits` is null.

    Raises
    ------
    TokenboundsError
        If a score file or plan that a certificate names cannot be read.
    """
    labels = short_labels(certificates)
    columns = {"axis": pl.String(), "first": pl.Int64(), "last": pl.Int64(), "tokens": pl.Int64()}
    means = {"nll_bits": pl.Float64(), "entropy_bits": pl.Float64()}
    frames = [pl.DataFrame(schema={**_MODEL_FIELDS, **columns, **means})]
    for certificate in certificates:
        names = (certificate.corpus, certificate.name, labels[certificate.name])
        constants = [pl.lit(name).alias(column) for column, name in zip(_MODEL_FIELDS, names, strict=True)]
        binned = _binned(certificate)
        frames += [_along(binned, axis).select(*constants, *columns, *means) for axis in _AXES]
    return pl.concat(frames)


def _binned(certificate: Certificate) -> pl.DataFrame:
    """Sums over the tokens that share a bin on both axes, in one pass over the scores: pairs of bins are few."""
    scores = [certificate.locate(record) for record in certificate.scores]
    plan = certificate.locate(certificate.plan)
    try:
        blocks = pl.scan_parquet(plan, glob=False).select("block", "start", "context", "draws")
        losses = pl.scan_parquet(scores, glob=False)
        entropies = pl.col("entropy_bits") if "entropy_bits" in losses.collect_schema() else pl.lit(None)
        visible = certificate.plan.visible_tokens
        document = pl.col("position").cast(pl.Int64)
        window = document - pl.col("start") + pl.col("context")
        if visible is not None:
            window = pl.min_horizontal(document, pl.lit(visible - 1))
        draws = pl.col("draws").cast(pl.Int64)
        return (
            losses.select("block", "position", "nll_bits", entropies.alias("entropy_bits"))
            .join(blocks, on="block")
            .select(
                *(document.alias("document"), window.alias("window"), draws.alias("tokens")),
                *(pl.col(name).cast(pl.Float64) * draws for name in _LOSSES),
            )
            .group_by(_octave(axis).alias(f"{axis}_bin") for axis in _AXES)
            .agg(
                *(pl.col(axis).min().alias(f"{axis}_first") for axis in _AXES),
                *(pl.col(axis).max().alias(f"{axis}_last") for axis in _AXES),
                pl.col("tokens").sum(),
                # Null, not 0, where there are no entropies.
                *(pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in _LOSSES),
            )
            .collect(engine="streaming")
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        name = certificate.path
        raise TokenboundsError(f"the scores named by {name} cannot be read: {error}. Run scoring again.") from error


def _octave(axis: str) -> pl.Expr:
    return (BINS_PER_OCTAVE * (pl.col(axis) + 1).cast(pl.Float64).log(2) + 1e-9).floor().cast(pl.Int64)


def _along(binned: pl.DataFrame, axis: str) -> pl.DataFrame:
    """Means by bin of one axis, in order."""
    return (
        binned.group_by(f"{axis}_bin")
        .agg(
            pl.col(f"{axis}_first").min().alias("first"),
            pl.col(f"{axis}_last").max().alias("last"),
            pl.col("tokens").sum(),
            *(
                pl.when(pl.col(name).count() > 0).then(pl.col(name).sum() / pl.col("tokens").sum()).alias(name)
                for name in _LOSSES
            ),
        )
        .sort(f"{axis}_bin")
        .with_columns(pl.lit(axis).alias("axis"))
    )


def choose_series(certificates: Sequence[Certificate], limit: int = 8) -> list[Certificate]:
    """At most `limit` certificates per corpus for a line chart: the best of every model first, then the best others.

    Of several certificates about the same scores, as with and without a chain, only the one with the shortest chain.
    """
    chosen: list[Certificate] = []
    for corpus in dict.fromkeys(certificate.corpus for certificate in certificates):
        distinct: dict[tuple[str, str], Certificate] = {}
        for one in sorted(certificates, key=lambda one: len(one.chain)):
            if one.corpus == corpus:
                distinct.setdefault((one.message.file, one.plan.file), one)
        ranked = sorted(distinct.values(), key=_best_bpd)
        leaders = list({one.model: one for one in reversed(ranked)}.values())
        leaders.sort(key=_best_bpd)
        others = [one for one in ranked if one not in leaders]
        chosen += sorted((leaders + others)[:limit], key=_best_bpd)
    return chosen


def _best_bpd(certificate: Certificate) -> float:
    row = certificate.row(BPD)
    return row.value if row else math.inf
