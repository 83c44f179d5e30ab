"""Betting bounds with a predictable centre, of losses and of errors (docs/bounds.md, "Predictable centres")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.azuma import check_budget
from tokenbounds.bounds.betting import (
    betting_value,
    error_lambdas,
    lambda_grid,
    mean_log,
    smallest_refuted,
    weigh_losses,
)
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


def error_centres(entropies: npt.ArrayLike, k: int, kappas: Sequence[float]) -> npt.NDArray[np.float64]:
    """Centres of top-k errors: 1 - 2^(-kappa max(0, H - log2 k)), the shape of how errors rise with the entropy.

    See docs/bounds.md, "Centres of errors".

    Parameters
    ----------
    entropies
        [n], bits.
    k
        Number of guesses.
    kappas
        [q], none negative; 0 is no centre.

    Returns
    -------
    float64 [q, n], in [0, 1).
    """
    spread = np.maximum(0.0, np.asarray(entropies, dtype=np.float64) - math.log2(k))  # bits beyond k equal guesses
    return -np.expm1(-math.log(2.0) * np.multiply.outer(np.asarray(kappas, dtype=np.float64), spread))


def bound_centred_errors(
    errors: npt.ArrayLike, tokens: npt.ArrayLike, centres: npt.NDArray[np.float64], complexity_nats: float
) -> tuple[Bound, int]:
    """The betting bound for 0/1 losses with predictable centres, its wealth averaged over lambdas and centres.

    Source: docs/bounds.md, "Centres of errors". With centres of 0 alone this is `betting.bound_errors`.

    Parameters
    ----------
    errors, tokens
        How many of the tokens with each value of the centres are wrong, and how many there are [b].
    centres
        Candidates [q, b], each in [0, 1).
    complexity_nats
        L, nats. Nothing is added to it beforehand; `price_nats` of the result says what averaging cost.

    Returns
    -------
    tuple
        The bound, and which of the centres has most wealth.
    """
    wrong, counts = np.asarray(errors, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    samples = round(float(counts.sum()))
    check_budget(complexity_nats, samples)
    bets = error_lambdas(samples)  # [l]
    known = centres @ counts / samples  # average centres [q]
    held = np.empty((len(centres), bets.size))  # log-wealth of each pair, except for what the mean pays back
    for place, centre in enumerate(centres):
        with np.errstate(divide="ignore", invalid="ignore"):
            lost = np.log1p(-np.multiply.outer(bets, 1.0 - centre)) * wrong  # [l, b]; -inf where all is lost at once
        kept = np.log1p(np.multiply.outer(bets, centre)) @ (counts - wrong)
        held[place] = np.where(wrong > 0, lost, 0.0).sum(axis=1) + kept
    # Sums of m terms of this size are exact to a few units in the last place; the bound is raised by that error.
    size = np.abs(held[:, 0]).max() + samples * bets[0] + 1.0
    doubt = 64 * np.finfo(np.float64).eps * size
    empirical = float(wrong.sum()) / samples

    def wealths(mean: float) -> npt.NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            back = samples * np.log1p(-bets * (mean - known[:, None]))
            return np.where(np.isneginf(held), -np.inf, held - back)

    high = smallest_refuted(wealths, empirical, complexity_nats + doubt)
    logs = wealths(high)
    best, bet = np.unravel_index(int(np.argmax(logs)), logs.shape)
    price = max(0.0, float(logs[best, bet]) - complexity_nats)
    if not math.isfinite(price):
        price = math.log(logs.size)
    bound = Bound(high, empirical, complexity_nats + price, samples, 1.0, price, float(bets[bet]))
    return bound, int(best)


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
