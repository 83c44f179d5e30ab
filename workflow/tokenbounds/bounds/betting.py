"""The betting form of the martingale bound, and its 0/1 case, the inverse kl (docs/bounds.md, "Betting").

Losses lie in [0, ceiling]; lambda in (0, 1 / ceiling). A constant centre only rescales lambda (docs/bounds.md,
"Centres"), so none is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.azuma import check_budget
from tokenbounds.bounds.result import Bound
from tokenbounds.errors import CertificateError

Floats = npt.NDArray[np.float64]

_SMALLEST_FRACTION = 1e-4
_LARGEST_FRACTION = 0.995
_BLOCK = 1 << 16
_ERROR_LAMBDAS = 1 << 12


def lambda_fractions(size: int) -> Floats:
    """The grid of lambda x ceiling: `size` points in (0, 1), evenly spaced in log(x / (1 - x)).

    See docs/bounds.md, "Grids".

    The grid depends on nothing but its size, so ln(size) nats pay for choosing from it with the data in view.

    Raises
    ------
    CertificateError
        If `size` is less than one.
    """
    if size < 1:
        raise CertificateError(f"a grid of {size} lambdas; it needs at least one.")
    low, high = (math.log(x / (1.0 - x)) for x in (_SMALLEST_FRACTION, _LARGEST_FRACTION))
    position = (np.arange(size) + 0.5) / size
    return 1.0 / (1.0 + np.exp(-(low + (high - low) * position)))


def lambda_grid(size: int, ceiling: float) -> Floats:
    """`lambda_fractions(size) / ceiling`: the lambdas allowed for losses of at most `ceiling`.

    See docs/bounds.md, "Grids".
    """
    return lambda_fractions(size) / ceiling


def mean_log(losses: npt.ArrayLike, lambdas: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Floats:
    """Weighted averages of ln(1 - lambda x loss) for each lambda.

    Parameters
    ----------
    losses
        [n], any unit.
    lambdas
        [k], 1 / that unit; every lambda x loss < 1.
    weights
        Counts or weights [n]; one each by default.

    Returns
    -------
    float64 [k], nats.
    """
    values = np.asarray(losses, dtype=np.float64)
    mass = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
    grid = np.atleast_1d(np.asarray(lambdas, dtype=np.float64))
    total = mass.sum()
    return np.array([_weighted_log(values, mass, each) / total for each in grid])


def _weighted_log(values: Floats, mass: Floats, lambda_: float) -> float:
    parts = []
    for start in range(0, values.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        logs = np.log1p(-lambda_ * values[block])
        parts.append(float(np.sum(logs * mass[block])))
    return math.fsum(parts)


def betting_value(mean_log_nats: float, lambda_: float, complexity_nats: float, samples: int) -> float:
    """(1 - exp(f - L/m)) / lambda, for one lambda fixed before the data; f is the average of ln(1 - lambda x loss).

    See docs/bounds.md, "Betting".
    """
    return -math.expm1(mean_log_nats - complexity_nats / samples) / lambda_


def bound_betting(
    losses: npt.ArrayLike,
    ceiling: float,
    complexity_nats: float,
    *,
    lambdas: int = 32,
    weights: npt.ArrayLike | None = None,
    samples: int | None = None,
) -> Bound:
    """The betting bound with the best lambda of a priced grid.

    Source: docs/bounds.md, "Betting". At least as tight as `freedman.bound_freedman` for each lambda.

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
    values, mass, count = weigh_losses(losses, ceiling, weights, samples)
    grid = lambda_grid(lambdas, ceiling)
    price = math.log(lambdas)
    total = complexity_nats + price
    check_budget(total, count)
    logs = mean_log(values, grid, mass)
    bounds = -np.expm1(logs - total / count) / grid
    best = int(np.argmin(bounds))
    empirical = float(np.sum(values * mass) / mass.sum())
    return Bound(float(bounds[best]), empirical, total, count, ceiling, price, float(grid[best]))


def weigh_losses(
    losses: npt.ArrayLike, ceiling: float, weights: npt.ArrayLike | None, samples: int | None
) -> tuple[Floats, Floats, int]:
    """Losses [n], their weights [n] (one each by default) and m (the sum of the weights by default).

    Raises
    ------
    CertificateError
        If a loss exceeds `ceiling` or there is none.
    """
    values = np.asarray(losses, dtype=np.float64)
    mass = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
    check_losses(values, ceiling)
    return values, mass, round(float(mass.sum())) if samples is None else samples


def check_losses(values: Floats, ceiling: float) -> None:
    """Refuse losses that are not numbers or exceed their ceiling.

    Raises
    ------
    CertificateError
        Naming the largest loss.
    """
    if values.size == 0:
        raise CertificateError("no losses were given; a bound needs at least one scored token.")
    largest = float(np.max(values))
    if not largest <= ceiling * (1.0 + 1e-9):
        raise CertificateError(f"a loss is {largest}, above the ceiling {ceiling} that the bound assumes.")


def binary_kl(q: float, p: float) -> float:
    """kl(q, p) between Bernoulli distributions, nats."""
    if not 0.0 <= q <= 1.0 or not 0.0 <= p <= 1.0:
        raise CertificateError(f"kl({q}, {p}) needs two numbers between 0 and 1.")
    first = 0.0 if q == 0 else (math.inf if p == 0 else q * math.log(q / p))
    second = 0.0 if q == 1 else (math.inf if p == 1 else (1 - q) * math.log((1 - q) / (1 - p)))
    return max(0.0, first + second)


def error_lambdas(samples: int) -> Floats:
    """The bets that the bound of errors averages over: evenly spaced in ln(lambda), from 1 / sqrt(m) to 1.

    See docs/bounds.md, "Errors". They depend on m alone, so that more bits never help. The best lambda for a share q of
    errors is at least about sqrt(8 L / m), and being off by d in ln(lambda) costs about L d^2 nats.

    Parameters
    ----------
    samples
        m, the number of tokens.

    Returns
    -------
    float64 [4096], increasing, in (0, 1]; the last is 1.
    """
    return np.exp(np.linspace(-0.5 * math.log(max(samples, 2)), 0.0, _ERROR_LAMBDAS))


def smallest_refuted(log_wealths: Callable[[float], Floats], empirical: float, threshold_nats: float) -> float:
    """The smallest mean of errors at which the average wealth of all bets exceeds a threshold, rounded up.

    See docs/bounds.md, "Errors".

    Parameters
    ----------
    log_wealths
        For a mean the log-wealth of each bet against it, nats; non-decreasing in the mean.
    empirical
        Share of errors, which no bet refutes.
    threshold_nats
        ln of the threshold.

    Returns
    -------
    float
        1 if even a mean of 1 is not refuted.
    """

    def refuted(mean: float) -> bool:
        logs = log_wealths(mean)
        largest = float(logs.max())
        return largest == math.inf or largest + math.log(float(np.exp(logs - largest).mean())) > threshold_nats

    low, high = empirical, 1.0
    for _ in range(200 if refuted(1.0) else 0):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


def bound_errors(empirical: float, complexity_nats: float, samples: int) -> Bound:
    """The betting bound for 0/1 losses, its wealth averaged over many lambdas: almost the inverse kl.

    Source: docs/bounds.md, "Errors".

    Parameters
    ----------
    empirical
        Share of tokens whose rank exceeds k (or an upper bound on it, if only a sample was scored).
    complexity_nats
        L, nats. Nothing is added to it beforehand; `price_nats` of the result says what averaging cost.
    samples
        m, the number of tokens.
    """
    check_budget(complexity_nats, samples)
    bets = error_lambdas(samples)
    with np.errstate(divide="ignore"):
        lost = np.log1p(-bets)  # [k]; the last is -inf: a bet of everything is lost at the first error
    # Log-wealth of each bet, except for what the mean pays back; with 0 errors even the last bet keeps its stake.
    held = samples * (empirical * lost if empirical > 0 else np.zeros_like(bets))
    # Sums of m terms of this size are exact to a few units in the last place; the bound is raised by that error.
    doubt = 8 * np.finfo(np.float64).eps * samples * (abs(empirical * lost[0]) + bets[0] + 1.0 / samples)

    def log_wealths(mean: float) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.isneginf(held), -np.inf, held - samples * np.log1p(-bets * mean))

    high = smallest_refuted(log_wealths, empirical, complexity_nats + doubt)
    paid = samples * binary_kl(empirical, high) if high < 1.0 else math.inf
    price = max(0.0, paid - complexity_nats) if paid < math.inf else math.log(bets.size)
    lambda_ = (high - empirical) / (high * (1.0 - empirical)) if empirical < 1.0 else 0.0
    return Bound(high, empirical, complexity_nats + price, samples, 1.0, price, lambda_)
