"""What models still reproduce of what they memorized, as their weights are coded in fewer bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from tokenbounds.bounds.kinds import BPD
from tokenbounds.certificates.schema import Certificate
from tokenbounds.report import style
from tokenbounds.report.drawing import Figure, FuncFormatter, LogLocator, NullLocator
from tokenbounds.report.tasks.generation import Answers

SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("task", "message"), pl.String()),
    "message_bits": pl.Int64(),
    "bits_per_weight": pl.Float64(),
    **dict.fromkeys(("sequences", "terms"), pl.Int64()),
    **dict.fromkeys(("sequences_reproduced", "terms_reproduced"), pl.Float64()),
    **dict.fromkeys(("bpd_measured", "certified_bpd", "random_guess"), pl.Float64()),
}
_WIDTH_INCHES = 7.2


def memorization_table(
    results: Sequence[Answers], certificates: Sequence[Certificate], bits_per_weight: Mapping[str, float | None]
) -> pl.DataFrame:
    """One row per task and message (`SCHEMA`), largest messages first.

    `terms_reproduced` and `sequences_reproduced` are shares; bounds and measured losses, bits per token, are those of
    the message's first certificate, by name, on the task's corpus that pays for its bits.

    Parameters
    ----------
    results
        Answers of tasks; those of other kinds are left out.
    certificates
        All of the study.
    bits_per_weight
        Of each message, as the encoder reports it.
    """
    rows = []
    for one in results:
        if one.task.kind != "memorization":
            continue
        own = [
            each
            for each in certificates
            if (each.message.name, each.corpus, each.prior.kind) == (one.message, one.task.corpus, "message")
        ]
        row = min(own, key=lambda each: each.name).row(BPD) if own else None
        frame = one.frame
        rows.append(
            {
                **{"task": one.name, "message": one.message, "message_bits": one.paid_bits},
                "bits_per_weight": bits_per_weight.get(one.message),
                **{"sequences": frame.height, "terms": int(frame["terms"].sum())},
                "sequences_reproduced": float(frame["whole"].cast(pl.Float64).to_numpy().mean()),
                "terms_reproduced": int(frame["reproduced"].sum()) / int(frame["terms"].sum()),
                "bpd_measured": row.empirical if row else None,
                "certified_bpd": row.value if row else None,
                "random_guess": row.random_guess if row else None,
            }
        )
    return pl.DataFrame(rows, schema=SCHEMA).sort("task", "message_bits", descending=[False, True])


def draw_memorization(table: pl.DataFrame) -> Figure:
    """Shares reproduced, and bounds with what was measured, against bits per weight: one line per task."""
    known = table.filter(pl.col("bits_per_weight").is_not_null())
    figure = Figure(figsize=(_WIDTH_INCHES, 2.9), layout="constrained")
    shares, losses = figure.subplots(1, 2)
    colours = style.colours(known["task"].to_list())
    for task, colour in colours.items():
        line = known.filter(pl.col("task") == task).sort("bits_per_weight")
        x = line["bits_per_weight"]
        shares.plot(x, 100 * line["terms_reproduced"], color=colour, marker="o", markersize=4, label=f"{task}, terms")
        shares.plot(
            x,
            100 * line["sequences_reproduced"],
            color=colour,
            marker="s",
            markersize=3.5,
            linestyle=(0, (3, 2)),
            linewidth=1.1,
            label=f"{task}, sequences",
        )
        bounded = line.filter(pl.col("certified_bpd").is_not_null())
        losses.plot(bounded["bits_per_weight"], bounded["certified_bpd"], color=colour, marker="o", markersize=4)
        losses.plot(
            bounded["bits_per_weight"], bounded["bpd_measured"], color=colour, linestyle=(0, (3, 2)), linewidth=1.1
        )
    for guess in known["random_guess"].drop_nulls().unique().to_list():
        losses.axhline(guess, color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)))
    shares.set_ylabel("reproduced, %")
    losses.set_ylabel("bits per token")
    losses.set_title("certified, and measured (dashed)", fontsize=9)
    shares.set_title("of what was trained on", fontsize=9)
    for axes in (shares, losses):
        axes.set_xscale("log")
        axes.set_xlabel("bits per weight")
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(*shares.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=8.5)
    return figure
