"""The figure of smoothing weights by token: which would be chosen, and what that gains over one for all tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tokenbounds.bounds.kinds import BPD, BoundKind
from tokenbounds.bounds.smoothing import loss_range, smooth
from tokenbounds.certificates.schema import Certificate, Row
from tokenbounds.errors import TokenboundsError
from tokenbounds.report import figure_data, hover, panels, style
from tokenbounds.report.drawing import Axes, Figure, Line2D, MaxNLocator, Patch
from tokenbounds.report.formats import format_value
from tokenbounds.report.records import short_labels

Floats = npt.NDArray[np.float64]

SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("corpus", "certificate", "label", "chosen_by"), pl.String()),
    **dict.fromkeys(("alpha", "share", "value_fixed", "value_by_token", "random_guess"), pl.Float64()),
}
BY_HEAD, BY_ENTROPY = "head", "entropy"
_BINS_PER_BIT = 32  # of losses within a group; each bin stands for its mean loss
_MOST_BITS = 64.0
_GROUPS_PER_BIT = 8  # as finely as scores state entropies
_ROUNDS = 50


@dataclass(frozen=True)
class Groups:
    """Tokens that must share a smoothing weight, with a histogram of their losses.

    Attributes
    ----------
    keys
        Entropies of the predictions, bits, or the weights that a head chose [groups].
    masses
        Weight of the tokens in each bin of losses [groups, bins].
    means
        Mean loss of each bin, bits [groups, bins]; 0 where it is empty.
    """

    keys: Floats
    masses: Floats
    means: Floats

    def losses(self, alpha: float, vocabulary_size: int) -> Floats:
        """Mean smoothed loss of each group, bits [groups]."""
        total: Floats = (self.masses * smooth(self.means, alpha, vocabulary_size)).sum(axis=1)
        return total / self.masses.sum(axis=1)

    @property
    def shares(self) -> Floats:
        """Share of the tokens in each group [groups]."""
        masses: Floats = self.masses.sum(axis=1)
        return masses / masses.sum()


@dataclass(frozen=True)
class Choice:
    """A smoothing weight for each group.

    Attributes
    ----------
    alphas
        The weights [groups].
    value
        Azuma's bound with them, bits per token, without the price of sampling.
    """

    alphas: Floats
    value: float


def token_alpha_table(certificates: Sequence[Certificate]) -> pl.DataFrame:
    """Share of the tokens with each smoothing weight, and Azuma's bound with it: one row per certificate and weight.

    Where a message has a smoothing head, weights are the head's (`chosen_by` is "head"). Elsewhere tokens are grouped
    by the entropy of their prediction, which is known before the token, and each group has the weight of the
    certificate's grid that makes Azuma's bound smallest; every group after the first pays for its choice. Such a bound
    is what could be had, and is not certified. `value_fixed` is the bound with the best single weight of the grid.
    Certificates without a row of Azuma's, without entropies, or of which only some blocks of each document were scored,
    are left out.

    Raises
    ------
    TokenboundsError
        If a score file or plan that a certificate names cannot be read.
    """
    labels = short_labels(certificates)
    rows = []
    for one in certificates:
        row = one.row(BPD, BoundKind.AZUMA)
        if row is None or one.plan.mode == "partial":
            continue
        by_entropy = read_groups(one, BY_ENTROPY)
        if by_entropy is None:
            continue
        alphas, vocabulary = sorted(one.settings.alphas), one.vocabulary_size
        choices = [fixed_choice(by_entropy, alpha, vocabulary, row, one.tokens) for alpha in alphas]
        fixed = min(choices, key=lambda choice: choice.value)
        by_head = read_groups(one, BY_HEAD)
        if by_head is None:
            groups, chosen_by = by_entropy, BY_ENTROPY
            choice = choose_weights(groups, alphas, vocabulary, row, one.tokens)
        else:
            groups, chosen_by = by_head, BY_HEAD
            choice = head_choice(groups, vocabulary, row, one.tokens)
        for alpha in np.unique(choice.alphas):
            rows.append(
                {
                    **{"corpus": one.corpus, "certificate": one.name, "label": labels[one.name]},
                    **{"chosen_by": chosen_by, "alpha": float(alpha)},
                    "share": float(groups.shares[choice.alphas == alpha].sum()),
                    "value_fixed": fixed.value + row.sampling,
                    "value_by_token": choice.value + row.sampling,
                    "random_guess": row.random_guess,
                }
            )
    return pl.DataFrame(rows, schema=SCHEMA)


def read_groups(certificate: Certificate, by: str) -> Groups | None:
    """Losses of a certificate's tokens by what decides their weight; None if its scores do not hold it.

    A block of a sample counts as often as it was drawn, split over its tokens. One streaming pass over the scores.

    Raises
    ------
    TokenboundsError
        If a score file or plan cannot be read.
    """
    scores = [certificate.locate(record) for record in certificate.scores]
    column = "alpha" if by == BY_HEAD else "entropy_bits"
    try:
        losses = pl.scan_parquet(scores, glob=False)
        if column not in losses.collect_schema():
            return None
        mass = pl.lit(1.0)
        if certificate.plan.mode == "sampled":
            plan = pl.scan_parquet(certificate.locate(certificate.plan), glob=False)
            losses = losses.join(plan.select("block", "draws", "length"), on="block")
            mass = pl.col("draws").cast(pl.Float64) / pl.col("length")
        key = pl.col(column).cast(pl.Float64)
        if by == BY_ENTROPY:
            key = (key * _GROUPS_PER_BIT).round() / _GROUPS_PER_BIT
        table = (
            losses.select(
                mass.alias("mass"),
                pl.col("nll_bits").cast(pl.Float64).clip(0.0, _MOST_BITS).alias("bits"),
                key.alias("key"),
            )
            .group_by("key", (pl.col("bits") * _BINS_PER_BIT).floor().cast(pl.Int64).alias("bin"))
            .agg(pl.col("mass").sum(), (pl.col("bits") * pl.col("mass")).sum())
            .collect(engine="streaming")
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        name = certificate.path
        raise TokenboundsError(f"the scores named by {name} cannot be read: {error}. Run scoring again.") from error
    keys, place = np.unique(table["key"].to_numpy(), return_inverse=True)
    masses = np.zeros((len(keys), int(_MOST_BITS * _BINS_PER_BIT) + 1))
    bits = np.zeros_like(masses)
    masses[place, table["bin"].to_numpy()] = table["mass"].to_numpy()
    bits[place, table["bin"].to_numpy()] = table["bits"].to_numpy()
    return Groups(keys, masses, np.divide(bits, masses, out=np.zeros_like(bits), where=masses > 0))


def fixed_choice(groups: Groups, alpha: float, vocabulary_size: int, row: Row, tokens: int) -> Choice:
    """One weight for all groups, at the row's price."""
    mean = float(groups.shares @ groups.losses(alpha, vocabulary_size))
    value = mean + loss_range(alpha, vocabulary_size) * math.sqrt(row.complexity / (2.0 * tokens))
    return Choice(np.full(len(groups.keys), alpha), value)


def head_choice(groups: Groups, vocabulary_size: int, row: Row, tokens: int) -> Choice:
    """The weights of a head, which are the groups' keys: the row's message pays for them."""
    losses = np.array([groups.losses(float(alpha), vocabulary_size)[place] for place, alpha in enumerate(groups.keys)])
    ranges = np.array([loss_range(float(alpha), vocabulary_size) for alpha in groups.keys])
    return Choice(groups.keys, _azuma(groups.shares, losses, ranges, row.complexity, tokens))


def choose_weights(groups: Groups, alphas: Sequence[float], vocabulary_size: int, row: Row, tokens: int) -> Choice:
    """The weight of the grid for each group that makes Azuma's bound with predictable ranges smallest.

    The bound is mean loss + sqrt(mean squared range) s, with s = sqrt(L / 2m). It is concave in the mean squared range
    M, so that choosing each group's weight by loss + squared range · s / (2 sqrt(M)), and M again from these weights,
    never raises it. The row's complexity already pays for one choice from the grid.

    Parameters
    ----------
    groups
        Losses of the tokens.
    alphas
        The grid.
    vocabulary_size
        V.
    row
        Azuma's row on bits per token.
    tokens
        m.
    """
    losses = np.array([groups.losses(alpha, vocabulary_size) for alpha in alphas])  # [alphas, groups]
    ranges = np.array([loss_range(alpha, vocabulary_size) for alpha in alphas])
    complexity = row.complexity + (len(groups.keys) - 1) * math.log(len(alphas))
    price = math.sqrt(complexity / (2.0 * tokens))
    everywhere = [float(groups.shares @ each) + price * wide for each, wide in zip(losses, ranges, strict=True)]
    chosen = np.full(len(groups.keys), int(np.argmin(everywhere)))
    for _ in range(_ROUNDS):
        root = math.sqrt(float(groups.shares @ ranges[chosen] ** 2))
        again = (losses + (ranges**2)[:, None] * price / (2.0 * root)).argmin(axis=0)
        if np.array_equal(again, chosen):
            break
        chosen = again
    value = _azuma(groups.shares, losses[chosen, np.arange(len(chosen))], ranges[chosen], complexity, tokens)
    return Choice(np.asarray(alphas)[chosen], value)


def _azuma(shares: Floats, losses: Floats, ranges: Floats, complexity_nats: float, tokens: int) -> float:
    """Mean loss, and the root mean squared range times sqrt(L / 2m), from each group's [groups]."""
    return float(shares @ losses) + math.sqrt(float(shares @ ranges**2) * complexity_nats / (2.0 * tokens))


def choose_certificates(certificates: Sequence[Certificate]) -> list[Certificate]:
    """Those whose tokens' weights are drawn: at most eight per corpus that state Azuma's bound on bits per token."""
    return figure_data.choose_series([one for one in certificates if one.row(BPD, BoundKind.AZUMA) is not None])


def draw_alpha_by_token(table: pl.DataFrame) -> Figure:
    """Left: share of the tokens with each weight. Right: Azuma's bound with one weight, and with one for each token."""
    corpora = table["corpus"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(panels.WIDTH_INCHES, 3.5 * len(corpora) + 0.3), layout="constrained")
    grid = figure.subplots(len(corpora), 2, squeeze=False)
    for (left, right), corpus in zip(grid, corpora, strict=True):
        rows = table.filter(pl.col("corpus") == corpus)
        colours = style.colours(rows["label"].to_list())
        _draw_shares(left, rows, colours)
        _draw_gains(right, rows, colours)
        panels.title(left, corpus, len(corpora))
    return figure


def _draw_shares(axes: Axes, rows: pl.DataFrame, colours: dict[str, str]) -> None:
    """Bars side by side at each weight; those of heads are filled, those by entropy, which nothing states, hollow."""
    alphas = rows["alpha"].unique().sort().to_list()
    width = 0.8 / len(colours)
    for index, (label, colour) in enumerate(colours.items()):
        bars = rows.filter(pl.col("label") == label)
        face = colour if bars["chosen_by"][0] == BY_HEAD else style.PAPER
        x = [alphas.index(alpha) + (index + 0.5) * width - 0.4 for alpha in bars["alpha"]]
        heights = (100 * bars["share"]).to_list()
        axes.bar(x, heights, 0.85 * width, facecolor=face, edgecolor=colour, linewidth=1.2)
        points = [
            (place, height, f"{label}: α {alpha:g} for {height:.2f} % of the tokens")
            for place, height, alpha in zip(x, heights, bars["alpha"], strict=True)
        ]
        hover.mark_points(axes, points, colour)
    axes.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set_xlabel("smoothing weight α of a token")
    axes.set_ylabel("share of the tokens, %")
    edge: dict[str, Any] = {"edgecolor": style.MUTED, "linewidth": 1.2}
    keys = [
        Patch(label=f"by {by}", facecolor=face, **edge)
        for by, face in ((BY_HEAD, style.MUTED), (BY_ENTROPY, style.PAPER))
        if by in rows["chosen_by"]
    ]
    panels.legend(axes, keys)


def _draw_gains(axes: Axes, rows: pl.DataFrame, colours: dict[str, str]) -> None:
    lines = rows.unique("label", keep="first", maintain_order=True).to_dicts()
    for place, row in enumerate(lines):
        colour, fixed, by_token = colours[row["label"]], row["value_fixed"], row["value_by_token"]
        axes.plot([fixed, by_token], [place, place], color=colour, linewidth=1.2)
        axes.plot(fixed, place, "|", color=colour, markersize=12, markeredgewidth=2)
        axes.plot(by_token, place, "o", color=colour, markersize=5)
        text = f"{format_value(BPD, fixed)}, by token {by_token - fixed:+.4f}"
        axes.annotate(text, (fixed, place), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(lines)), [row["label"] for row in lines])
    axes.set_ylim(len(lines) - 0.5, -0.8)
    low, high = panels.extent(rows["value_fixed"])
    margin = 0.5 * max(high - low, 0.5)  # half of a text
    axes.set_xlim(low - margin, high + margin)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("bits per token, Azuma")
    grey: dict[str, Any] = {"color": style.MUTED, "linestyle": "none"}
    keys = [
        Line2D([], [], marker="|", markersize=12, markeredgewidth=2, label="one weight", **grey),
        Line2D([], [], marker="o", markersize=5, label="by token", **grey),
    ]
    panels.legend(axes, keys)
