"""The empirical Freedman bound of Finzi et al. 2025 (docs/bounds.md, "Freedman")."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.azuma import check_budget
from tokenbounds.bounds.betting import lambda_grid, mean_log, weigh_losses
from tokenbounds.bounds.result import Bound
from tokenbounds.errors import CertificateError


def freedman_value(
    mean_log_nats: float, lambda_: float, complexity_nats: float, samples: int, center: float = 0.0
) -> float:
    """The bound for one lambda and one constant centre c, both fixed before the data (docs/bounds.md, "Freedman").

    f is the average of ln(1 - lambda x loss), **not** centred. With kappa = lambda / (1 - lambda c) this is
    c + (L/m - average of ln(1 - kappa (loss - c))) / kappa, since 1 - kappa (loss - c) is 1 - lambda x loss divided by
    1 - lambda c. Over all c < 1 / lambda its smallest value is `betting.betting_value`.
    """
    rest = 1.0 - lambda_ * center
    return center + rest * (complexity_nats / samples + math.log(rest) - mean_log_nats) / lambda_


def bound_freedman(
    losses: npt.ArrayLike,
    ceiling: float,
    complexity_nats: float,
    *,
    lambdas: int = 32,
    centers: Sequence[float] = (0.0,),
    weights: npt.ArrayLike | None = None,
    samples: int | None = None,
) -> Bound:
    """The empirical Freedman bound with the best lambda and centre of a priced grid.

    Source: Finzi et al. 2025 (arXiv 2504.15208), its empirical Freedman inequality, with constant centres. See
    docs/bounds.md, "Freedman". `betting.bound_betting` is never larger.

    Parameters
    ----------
    losses
        Losses [n], at most `ceiling` each; with `weights`, the values of a histogram.
    ceiling
        An upper bound on every loss, fixed before the data, same unit.
    complexity_nats
        L without the price of lambdas and centres, nats.
    lambdas
        Size of the grid.
    centers
        Candidates for the centre, fixed before the data, each in [0, ceiling); ln(lambdas x centres) nats are added.
    weights
        Counts [n] of the values.
    samples
        m; the sum of the weights by default.
    """
    values, mass, count = weigh_losses(losses, ceiling, weights, samples)
    if not centers or not all(0.0 <= center < ceiling for center in centers):
        raise CertificateError(f"the centres {list(centers)} must lie in [0, {ceiling}), and be at least one.")
    grid = lambda_grid(lambdas, ceiling)
    price = math.log(lambdas * len(centers))
    total = complexity_nats + price
    check_budget(total, count)
    logs = mean_log(values, grid, mass)
    value, lambda_ = min(
        (freedman_value(float(log), float(each), total, count, center), float(each))
        for log, each in zip(logs, grid, strict=True)
        for center in centers
    )
    empirical = float(np.sum(values * mass) / mass.sum())
    return Bound(value, empirical, total, count, ceiling, price, lambda_)
