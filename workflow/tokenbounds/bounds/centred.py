"""The betting bound with a predictable centre (docs/bounds.md, "Predictable centres")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.azuma import check_budget
from tokenbounds.bounds.betting import betting_value, lambda_grid, mean_log, weigh_losses
from tokenbounds.bounds.result import Bound
from tokenbounds.errors import CertificateError


def bound_centred(
    losses: npt.ArrayLike,
    entropies: npt.ArrayLike,
    ceiling: float,
    complexity_nats: float,
    *,
    kappas: Sequence[float],
    lambdas: int = 32,
    weights: npt.ArrayLike | None = None,
) -> Bound:
    """The betting bound on losses less their centres kappa x entropy, with the best kappa and lambda of priced grids.

    Source: docs/bounds.md, "Predictable centres". With the single kappa 0 this is `betting.bound_betting`.

    Parameters
    ----------
    losses
        Losses [n], at most `ceiling` each, in any unit.
    entropies
        What is known before each token [n], not negative, same unit: the entropy of its prediction, or anything else
        that is a function of the tokens before it.
    ceiling
        An upper bound on every loss, fixed before the data, same unit.
    complexity_nats
        L without the price of the grids, nats.
    kappas
        Candidates, fixed before the data, none negative; ln(kappas x lambdas) nats are added.
    lambdas
        Size of the grid.
    weights
        Counts [n], if the tokens are cells of a joint histogram.

    Raises
    ------
    CertificateError
        If an entropy or a kappa is negative or missing, or a loss exceeds the ceiling.
    """
    values, mass, count = weigh_losses(losses, ceiling, weights, None)
    known = np.asarray(entropies, dtype=np.float64)
    if known.shape != values.shape or not known.min() >= 0.0:
        raise CertificateError("every loss needs an entropy that is not negative.")
    if not kappas or not min(kappas) >= 0.0:
        raise CertificateError(f"the kappas {list(kappas)} must not be negative, and be at least one.")
    grid = lambda_grid(lambdas, ceiling)
    price = math.log(lambdas * len(kappas))
    total = complexity_nats + price
    check_budget(total, count)
    found = []
    for kappa in kappas:
        centre = kappa * float(np.sum(known * mass) / mass.sum())
        logs = mean_log(values - kappa * known, grid, mass)
        found += [
            (centre + betting_value(float(log), float(lambda_), total, count), float(lambda_), kappa)
            for log, lambda_ in zip(logs, grid, strict=True)
        ]
    value, lambda_, kappa = min(found)
    empirical = float(np.sum(values * mass) / mass.sum())
    return Bound(value, empirical, total, count, ceiling, price, lambda_, kappa=kappa)


@dataclass(frozen=True)
class Tangent:
    """A betting bound with a centre, or one above it, as a constant plus the average of one quantity of each token.

    Source: docs/bounds.md, "Centres on a sample". On a sample the average of that quantity is bounded, once, in the
    place of the centre's and of the logarithm's.

    Attributes
    ----------
    lambda_
        1 / unit of the loss.
    intercept, slope
        p <= intercept + average of (c - slope x ln(1 - lambda (loss - c))), where the average is over all tokens.
    """

    lambda_: float
    intercept: float
    slope: float

    @classmethod
    def of_betting(cls, guess_nats: float, lambda_: float, complexity_nats: float, samples: int) -> Tangent:
        """The tangent of the betting bound where the average logarithm is `guess_nats`, which was fixed beforehand."""
        weight = math.exp(guess_nats - complexity_nats / samples)
        return cls(lambda_, (1.0 - weight * (1.0 - guess_nats)) / lambda_, weight / lambda_)

    @classmethod
    def of_freedman(cls, lambda_: float, complexity_nats: float, samples: int) -> Tangent:
        """Freedman's bound, which is such a sum itself."""
        return cls(lambda_, complexity_nats / samples / lambda_, 1.0 / lambda_)

    def interval(self, low: float, high: float, most: float) -> tuple[float, float]:
        """Smallest and largest value of the quantity for losses in [low, high] and centres in [0, most]."""

        def at(loss: float, centre: float) -> float:
            return centre - self.slope * math.log1p(-self.lambda_ * (loss - centre))

        # It increases in the loss, and is a convex function of the centre.
        largest = max(at(high, 0.0), at(high, most))
        turn = (self.slope * self.lambda_ - 1.0) / self.lambda_ + low
        return at(low, min(max(turn, 0.0), most)), largest
