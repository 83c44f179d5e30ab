"""A source for `bound_coverage.py` whose ranges are as random as they can be: a walk that stops when it is ahead.

Fair losses of 0 or 2, until the losses so far are far enough below their expectation; from then on every loss is 1,
for certain, and its range 0. Ranges are predictable, and their mean square is known only at the end. Whoever then takes
the lambda that suits it best, as if it had been fixed beforehand, is wrong far more often than delta: a walk comes to
any multiple of its standard deviation at some time.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from _coverage_sources import DELTA
from tokenbounds.bounds.azuma import bound_azuma_predictable

STEPS = 20_000
GUESSES = 16
RANGE = 2.0


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
