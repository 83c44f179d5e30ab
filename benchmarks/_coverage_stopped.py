"""Sources for `bound_coverage.py` that stop when they are ahead: their ranges, or the whole corpus.

Fair losses of 0 or 2, until the losses so far are far enough below their expectation; from then on every loss is 1, for
certain, and its range 0. Ranges are predictable, and their mean square is known only at the end. Someone who then takes
the lambda that suits it best, as if it had been fixed beforehand, is wrong far more often than delta: a walk reaches
any multiple of its standard deviation at some time.

A collector who likes to end the corpus there does the same to m: Azuma's lambda depends on it, and the bets of a fixed
grid do not (docs/bounds.md, "Setting").
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from _coverage_sources import DELTA
from tokenbounds.bounds.azuma import bound_azuma, bound_azuma_predictable
from tokenbounds.bounds.betting import bound_betting, lambda_grid

STEPS = 20_000
GUESSES = 16
RANGE = 2.0
COLLECTED = 4_000  # tokens at most
LAMBDAS = 8


def stopped_excess(replications: int, seed: int, *, paid: bool) -> npt.NDArray[np.float64]:
    """The truth, a risk of 1, minus the bound: with a priced grid of lambdas, or with the best one, unpaid."""
    rng = np.random.default_rng(seed)
    total = math.log(1.0 / DELTA)
    steps = np.arange(1, STEPS + 1)
    excess = np.empty(replications)
    for index in range(replications):
        ahead = np.cumsum(1 - 2 * rng.integers(0, 2, STEPS, dtype=np.int32))
        reached = ahead >= np.sqrt(2.0 * total * steps)
        stop = int(np.argmax(reached)) if reached.any() else STEPS - 1
        empirical = 1.0 - ahead[stop] / STEPS
        square = RANGE**2 * (stop + 1) / STEPS
        guesses = np.geomspace(RANGE / math.sqrt(STEPS), RANGE, GUESSES) if paid else [math.sqrt(square)]
        excess[index] = 1.0 - bound_azuma_predictable(empirical, square, guesses, total, STEPS).value
    return excess


def collected_excess(replications: int, seed: int, *, bets: bool) -> npt.NDArray[np.float64]:
    """The truth, a risk of 1/2, minus the bound at the moment that suits the collector best: betting, or Azuma's.

    Losses are fair coins, and the corpus ends as soon as the bound is false, if it ever is.
    """
    rng = np.random.default_rng(seed)
    total = math.log(1.0 / DELTA)
    steps = np.arange(1, COLLECTED + 1)
    lambdas = lambda_grid(LAMBDAS, 1.0)[:, None]
    excess = np.empty(replications)
    for index in range(replications):
        lost = np.cumsum(rng.integers(0, 2, COLLECTED))
        if bets:
            wealth = lost * np.log1p(-lambdas) - steps * np.log1p(-lambdas / 2)  # [lambdas, steps]
            ahead = (wealth > total + math.log(LAMBDAS)).any(axis=0)
        else:
            ahead = steps / 2 - lost > np.sqrt(total * steps / 2)
        end = int(np.argmax(ahead)) if ahead.any() else COLLECTED - 1
        ones, size = int(lost[end]), end + 1
        if bets:
            found = bound_betting([0.0, 1.0], 1.0, total, lambdas=LAMBDAS, weights=[size - ones, ones])
        else:
            found = bound_azuma(ones / size, 1.0, total, size)
        excess[index] = 0.5 - found.value
    return excess
