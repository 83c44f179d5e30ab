"""The empirical Freedman bound of Finzi et al. 2025 (docs/bounds.md, "Freedman")."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.azuma import check_budget
from tokenbounds.bounds.betting import check_losses, lambda_grid, mean_log
from tokenbounds.bounds.result import Bound


def freedman_value(mean_log_nats: float, lambda_: float, complexity_nats: float, samples: int) -> float:
    """(L/m - f) / lambda, for one lambda fixed before the data; f is the average of ln(1 - lambda x loss)."""
    return (complexity_nats / samples - mean_log_nats) / lambda_


def bound_freedman(
    losses: npt.ArrayLike,
    ceiling: float,
    complexity_nats: float,
    *,
    lambdas: int = 32,
    weights: npt.ArrayLike | None = None,
    samples: int | None = None,
) -> Bound:
    """The empirical Freedman bound with the best lambda of a priced grid.

    Source: Finzi et al. 2025 (arXiv 2504.15208), its empirical Freedman inequality, with a constant centre. See
    docs/bounds.md, "Freedman". The parameters are those of `betting.bound_betting`, which is never larger.

    Parameters
    ----------
    losses
        Losses [n], at most `ceiling` each; with `weights`, the values of a histogram.
    ceiling
        An upper bound on every loss, fixed before the data, same unit.
    complexity_nats
        L without the price of the lambdas, nats.
    lambdas
        Size of the grid; ln(lambdas) nats are added.
    weights
        Counts [n] of the values.
    samples
        m; the sum of the weights by default.
    """
    values = np.asarray(losses, dtype=np.float64)
    mass = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
    count = round(float(mass.sum())) if samples is None else samples
    check_losses(values, ceiling)
    price = math.log(lambdas)
    total = complexity_nats + price
    check_budget(total, count)
    grid = lambda_grid(lambdas, ceiling)
    bounds = (total / count - mean_log(values, grid, mass)) / grid
    best = int(np.argmin(bounds))
    empirical = float(np.sum(values * mass) / mass.sum())
    return Bound(float(bounds[best]), empirical, total, count, ceiling, price, float(grid[best]))
