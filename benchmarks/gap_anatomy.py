"""What a gap is made of: the example of docs/bounds.md ("A ledger with numbers"), part by part, as a figure.

Half of a million bytes cost a model 0.2 bits each, three tenths 2 bits and a fifth 6 bits; its message has 16,000 bits.
A bar begins at what was measured. Then come what betting pays for losses that differ from each other, the price of L by
its parts, as large as their shares of L, and what is owed to a sample.

    python benchmarks/gap_anatomy.py --out docs/figures
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenbounds.bounds.azuma import bound_azuma
from tokenbounds.bounds.betting import betting_value, lambda_grid
from tokenbounds.bounds.kinds import BPD, BoundKind, Metric
from tokenbounds.bounds.ledger import RowBudget, split_delta
from tokenbounds.bounds.sampling import lower_mean, width_of_draws
from tokenbounds.bounds.smoothing import loss_ceiling, loss_floor, loss_range, smooth

Floats = npt.NDArray[np.float64]

BITS, SHARES = np.array([0.2, 2.0, 6.0]), np.array([0.5, 0.3, 0.2])
TOKENS, VOCABULARY, MESSAGE_BITS = 1_000_000, 256, 16_000
ALPHAS, LAMBDAS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2), 32
DRAWS, BLOCK = 800, 128
PARTS = ("measured", "losses differ", "message", "grids and confidence", "sample")
_COLOURS = ("#9aa5b1", "#7fb3d5", "#1b6ca8", "#e0a030", "#c0392b")


@dataclass(frozen=True)
class Anatomy:
    """A bar: its name, and the sizes of `PARTS` in bits per token, which add up to the bound."""

    name: str
    sizes: tuple[float, ...]

    @property
    def value(self) -> float:
        """The bound."""
        return math.fsum(self.sizes)


def budget(bound: BoundKind, message_bits: int, sampling_share: float | None = None) -> RowBudget:
    """What a row may spend, of a ledger with bits per token and three top-k errors under two bounds."""
    metrics = (BPD, Metric.top(1), Metric.top(10), Metric.top(100))
    rows = [(metric, kind) for metric in metrics for kind in (BoundKind.AZUMA, BoundKind.BETTING)]
    ledger = split_delta(
        0.05, rows, message_bits=message_bits, alphas=len(ALPHAS), lambdas=LAMBDAS, sampling_share=sampling_share
    )
    return ledger.shared_by(4).row(BPD, bound)


def dissect_azuma(name: str) -> Anatomy:
    """The row under Azuma's bound."""
    row = budget(BoundKind.AZUMA, MESSAGE_BITS)
    found = []
    for alpha in ALPHAS:
        mean = float(smooth(BITS, alpha, VOCABULARY) @ SHARES)
        value = bound_azuma(mean, loss_range(alpha, VOCABULARY), row.complexity_nats, TOKENS).value
        found.append((value, mean))
    value, mean = min(found)
    of_message = row.message_bits * math.log(2) / row.complexity_nats
    return Anatomy(name, (mean, 0.0, of_message * (value - mean), (1 - of_message) * (value - mean), 0.0))


def dissect_betting(name: str, message_bits: int) -> Anatomy:
    """The row under the betting bound, of a corpus scored whole."""
    row = budget(BoundKind.BETTING, message_bits)
    total = row.complexity_nats + math.log(LAMBDAS)
    found = []
    for losses, lambda_, _ in cells():
        log = float(np.log1p(-lambda_ * losses) @ SHARES)
        found.append((betting_value(log, lambda_, total, TOKENS), float(losses @ SHARES), log, lambda_))
    value, mean, log, lambda_ = min(found)
    return Anatomy(name, divide(row, total, mean, log, lambda_, value))


def dissect_sample(name: str, message_bits: int) -> Anatomy:
    """The same on a sample of independent tokens, of which the first tenth of the draws chooses the cell."""
    row = budget(BoundKind.BETTING, message_bits, 0.2)
    total = row.complexity_nats + math.log(LAMBDAS)
    blocks = np.random.default_rng(1).multinomial(BLOCK, SHARES, DRAWS) / BLOCK  # shares of the losses [draws, 3]
    pilot, rest = blocks[: DRAWS // 10], blocks[DRAWS // 10 :]
    found = []
    for losses, lambda_, ends in cells():
        logs = np.log1p(-lambda_ * losses)
        span = (math.log1p(-lambda_ * ends[1]), math.log1p(-lambda_ * ends[0]))
        drawn = pilot @ logs
        width = width_of_draws(float(drawn.std()), span[1] - span[0], len(rest), row.delta_per_cell)
        guess = betting_value(float(drawn.mean()) - width, lambda_, total, TOKENS)
        found.append((guess, lambda_, tuple(losses), span))
    _, lambda_, losses, span = min(found)
    logs = np.log1p(-lambda_ * np.array(losses))
    lowest = lower_mean(rest @ logs, *span, row.delta_per_cell)
    mean, log = float(blocks.mean(axis=0) @ losses), float(blocks.mean(axis=0) @ logs)
    return Anatomy(name, divide(row, total, mean, log, lambda_, betting_value(lowest, lambda_, total, TOKENS)))


def cells() -> Iterator[tuple[Floats, float, tuple[float, float]]]:
    """Every cell of the grids: smoothed losses [3], lambda, and the smallest and largest loss there is."""
    for alpha in ALPHAS:
        ends = (loss_floor(alpha, VOCABULARY), loss_ceiling(alpha, VOCABULARY))
        for lambda_ in lambda_grid(LAMBDAS, ends[1]).tolist():
            yield smooth(BITS, alpha, VOCABULARY), lambda_, ends


def divide(row: RowBudget, total: float, mean: float, log: float, lambda_: float, value: float) -> tuple[float, ...]:
    """A betting row's value by `PARTS`, from the averages of the losses and of the logarithms that were measured."""
    whole, free = (betting_value(log, lambda_, price, TOKENS) for price in (total, 0.0))
    of_message = row.message_bits * math.log(2) / total
    return (mean, free - mean, of_message * (whole - free), (1 - of_message) * (whole - free), value - whole)


def bars() -> list[Anatomy]:
    """The bars of the figure, from the top."""
    return [
        dissect_azuma("Azuma"),
        dissect_betting("betting", MESSAGE_BITS),
        dissect_sample(f"betting, a sample of\n{DRAWS * BLOCK:,} tokens", MESSAGE_BITS),
        dissect_betting("betting, held out:\nno message is paid for", 0),
    ]


def draw(found: list[Anatomy], path: Path) -> None:
    """Draw the bars."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "anatomy"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 3.0), layout="constrained")
    left = np.zeros(len(found))
    for index, (part, colour) in enumerate(zip(PARTS, _COLOURS, strict=True)):
        sizes = np.array([one.sizes[index] for one in found])
        axes.barh([one.name for one in found], sizes, left=left, color=colour, label=part, height=0.6)
        left += sizes
    for place, one in enumerate(found):
        axes.text(one.value + 0.02, place, f"{one.value:.3f}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(1.6, 3.2)
    axes.set_xlabel("bits per byte, from 1.6 on; guessing needs 8")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(PARTS), fontsize=8, frameon=False
    )
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    arguments = parser.parse_args()
    found = bars()
    for one in found:
        print(f"{' '.join(one.name.split()):45} {one.value:.4f} =", " + ".join(f"{size:.4f}" for size in one.sizes))
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(found, arguments.out / "gap_anatomy.svg")


if __name__ == "__main__":
    main()
