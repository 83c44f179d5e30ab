"""Every bound in the regime of Lotfi et al. 2024 (arXiv 2407.18158): 7 x 10^9 parameters at about 2 bits.

    python benchmarks/paper_regime.py SCORES.parquet                      # Azuma, Freedman, betting
    python benchmarks/paper_regime.py SCORES.parquet --base BASE.parquet  # and chains over a cheaper model

The paper publishes sizes and an average loss, not the losses of single tokens, and Azuma's bound needs no more. The
others depend on how losses are spread. SCORES are measured losses of any study (those of the documents come from
`benchmarks/loss_gaps.py --score`); they are multiplied by the one factor that gives them the published average, and
each of them represents m / n tokens. BASE are the losses of a cheaper model on the same tokens, multiplied by the same
factor. It is a stand-in: its message is taken to be a stated share of the large model's. So the numbers say what these
bounds give for losses that are spread like the measured ones, not what the paper's model would have got.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from tokenbounds.bounds.azuma import bound_azuma
from tokenbounds.bounds.betting import bound_betting
from tokenbounds.bounds.freedman import bound_freedman
from tokenbounds.bounds.smoothing import loss_ceiling, loss_range, smooth
from tokenbounds.bounds.telescoped import TelescopedBound, bound_telescoped, link_ceilings, link_losses
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import ScoreError

Floats = npt.NDArray[np.float64]

BASE_SHARES = (0.005, 0.02, 0.1)
BETAS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Regime:
    """The published summary; what it leaves open (alpha, delta) as in the paper's setting."""

    tokens: int = 1_200_000_000_000
    vocabulary_size: int = 32_000
    message_bytes: int = 1_900_000_000
    loss_bits: float = 2.87
    alpha: float = 0.01
    delta: float = 0.05
    alphas: tuple[float, ...] = BoundsSpec().alphas

    def complexity_nats(self, share: float = 1.0, choices: int = 1, parts: int = 1) -> float:
        """L of messages of `share` times the size, for 1 / `parts` of delta and a choice among `choices`."""
        return share * 8 * self.message_bytes * math.log(2.0) + math.log(parts / self.delta) + math.log(choices)


def rescale(nll_bits: npt.ArrayLike, regime: Regime) -> float:
    """The factor by which losses must be multiplied to have the published average after smoothing."""
    losses = np.asarray(nll_bits, dtype=np.float64)
    low, high = 0.0, 64.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = smooth(middle * losses, regime.alpha, regime.vocabulary_size).mean() > regime.loss_bits
        low, high = (low, middle) if above else (middle, high)
    return high


def published_azuma(regime: Regime) -> float:
    """Azuma's bound from the published numbers alone, bits per token."""
    width = loss_range(regime.alpha, regime.vocabulary_size)
    return bound_azuma(regime.loss_bits, width, regime.complexity_nats(), regime.tokens).value


def single_model(losses: Floats, regime: Regime) -> list[dict[str, Any]]:
    """Azuma, Freedman and betting, each with the best alpha of the priced grid."""
    total = regime.complexity_nats(choices=len(regime.alphas))
    size, m = regime.vocabulary_size, regime.tokens
    found: dict[str, list[dict[str, Any]]] = {"azuma": [], "freedman": [], "betting": []}
    for alpha in regime.alphas:
        smoothed, ceiling = smooth(losses, alpha, size), loss_ceiling(alpha, size)
        for name, bound in (
            ("azuma", bound_azuma(float(smoothed.mean()), loss_range(alpha, size), total, m)),
            ("freedman", bound_freedman(smoothed, ceiling, total, samples=m)),
            ("betting", bound_betting(smoothed, ceiling, total, samples=m)),
        ):
            found[name].append({"value": bound.value, "empirical": bound.empirical, "alphas": [alpha]})
    return [{"bound": name, **min(rows, key=lambda row: row["value"])} for name, rows in found.items()]


def chains(base: Floats, losses: Floats, regime: Regime, shares: Sequence[float] = BASE_SHARES) -> list[dict[str, Any]]:
    """Telescoped over the cheaper model, subtracting part of its loss, for each share of the message that it takes."""
    weights = np.full(losses.size, regime.tokens / losses.size)
    cells = list(itertools.product(regime.alphas, regime.alphas, BETAS))
    best: dict[float, tuple[TelescopedBound, tuple[float, float, float]]] = {}
    for cell in cells:
        pair, betas = cell[:2], (0.0, cell[2])
        links = link_losses([base, losses], pair, regime.vocabulary_size, betas)
        ceilings = link_ceilings(pair, regime.vocabulary_size, betas)
        for share in shares:
            totals = [regime.complexity_nats(each, len(cells), 2) for each in (share, 1.0 + share)]
            bound = bound_telescoped(links, ceilings, totals, weights=weights, betas=betas)
            if share not in best or bound.value < best[share][0].value:
                best[share] = (bound, cell)
    return [
        {
            "bound": "telescoped",
            "value": bound.value,
            "empirical": bound.empirical,
            "alphas": list(cell[:2]),
            "beta": cell[2],
            "base_share": share,
        }
        for share, (bound, cell) in best.items()
    ]


def tabulate(losses: npt.ArrayLike, base: npt.ArrayLike | None, regime: Regime) -> list[dict[str, Any]]:
    """One row per bound; `gap_share` is its gap (value minus empirical) as a share of the published Azuma's."""
    factor = rescale(losses, regime)
    scaled = factor * np.asarray(losses, dtype=np.float64)
    published = published_azuma(regime)
    rows = [
        {"bound": "azuma, published", "value": published, "empirical": regime.loss_bits, "alphas": [regime.alpha]},
        *single_model(scaled, regime),
    ]
    if base is not None:
        rows += chains(factor * np.asarray(base, dtype=np.float64), scaled, regime)
    reference = published - regime.loss_bits
    return [{**row, "gap_share": (row["value"] - row["empirical"]) / reference} for row in rows]


def read_aligned(scores: Sequence[Path], base: Sequence[Path]) -> tuple[Floats, Floats | None]:
    """Losses of both models; the same tokens in the same order.

    Raises
    ------
    ScoreError
        If they are not.
    """
    tables = [pq.read_table(paths, columns=["document", "position", "nll_bits"]) for paths in (scores, base) if paths]
    for name in ("document", "position"):
        if any(not table[name].equals(tables[0][name]) for table in tables):
            raise ScoreError("the two models' scores are not of the same tokens; score both on the same corpus.")
    columns = [table["nll_bits"].to_numpy().astype(np.float64) for table in tables]
    return columns[0], columns[1] if base else None


def render(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table in Markdown, bounds rounded up."""
    from tokenbounds.rounding import round_up

    lines = ["| bound | certified | measured | gap | of Azuma's | α | β |", "|:--|--:|--:|--:|--:|:--|--:|"]
    for row in rows:
        name = row["bound"] + (f", {100 * row['base_share']:g} % for the base" if "base_share" in row else "")
        gap = round_up(row["value"] - row["empirical"], 3)
        alphas = ", ".join(f"{alpha:g}" for alpha in row["alphas"])
        value, empirical = round_up(row["value"], 3), round_up(row["empirical"], 3)
        share, beta = round_up(row["gap_share"], 2), f"{row['beta']:g}" if "beta" in row else ""
        lines.append(f"| {name} | {value} | {empirical} | {gap} | {share} | {alphas} | {beta} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", help="score Parquet of the model")
    parser.add_argument("--base", type=Path, nargs="+", default=[], help="score Parquet of a cheaper model")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/paper_regime.json"))
    arguments = parser.parse_args()
    losses, base = read_aligned(arguments.scores, arguments.base)
    regime = Regime()
    rows = tabulate(losses, base, regime)
    summary = {"tokens": losses.size, "mean_bits": float(losses.mean()), "deviation_bits": float(losses.std())}
    if base is not None:
        summary["base_mean_bits"] = float(base.mean())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"measured": summary, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"{losses.size:,} measured losses: {summary}\n\n{render(rows)}")


if __name__ == "__main__":
    main()
