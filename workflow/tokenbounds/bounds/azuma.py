"""Azuma's inequality, the reference row of every table (docs/bounds.md, "Azuma")."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.result import Bound
from tokenbounds.errors import CertificateError


def bound_azuma(empirical: float, loss_range: float, complexity_nats: float, samples: int) -> Bound:
    """Bound the average conditional risk: empirical + range sqrt(L / (2 m)).

    Source: Lotfi et al. 2024 (arXiv 2407.18158), theorem 3.1; Azuma 1967. See docs/bounds.md, "Azuma".

    Parameters
    ----------
    empirical
        Average loss, any unit.
    loss_range
        Width of an interval, fixed before the data, that holds every loss; same unit.
    complexity_nats
        L = C ln 2 + ln(1 / delta), plus ln of the number of other candidates (smoothing weights), nats.
    samples
        m, the number of tokens.

    Raises
    ------
    CertificateError
        If an argument is out of its domain.
    """
    check_budget(complexity_nats, samples)
    if not loss_range > 0:
        raise CertificateError(f"the range of the loss is {loss_range}; it must be positive.")
    value = empirical + loss_range * math.sqrt(complexity_nats / (2.0 * samples))
    return Bound(value, empirical, complexity_nats, samples, loss_range)


def bound_azuma_predictable(
    empirical: float,
    mean_square_range: float,
    candidates: npt.ArrayLike,
    complexity_nats: float,
    samples: int,
) -> Bound:
    """Azuma with ranges that vary from token to token, known before each token but not before the data.

    Their mean square is then random, and so is the best lambda, which therefore comes from a grid. `candidates` are the
    values of the root mean square range that the grid is tuned to; ln of their number is added to the complexity.
    Source: docs/bounds.md, "Azuma with predictable ranges".

    Parameters
    ----------
    empirical
        Average loss, any unit.
    mean_square_range
        (1/m) sum of squared ranges, squared unit of the loss.
    candidates
        Positive ranges, fixed before the data.
    complexity_nats
        L without the price of `candidates`, nats.
    samples
        m, the number of tokens.
    """
    guesses = np.asarray(candidates, dtype=np.float64)
    if guesses.size == 0 or not np.all(guesses > 0):
        raise CertificateError("the candidate ranges must be positive, and at least one.")
    price = math.log(guesses.size)
    total = complexity_nats + price
    check_budget(total, samples)
    effective = 0.5 * (guesses + mean_square_range / guesses)
    best = int(np.argmin(effective))
    value = empirical + float(effective[best]) * math.sqrt(total / (2.0 * samples))
    lambda_ = math.sqrt(8.0 * total / samples) / float(guesses[best])
    return Bound(value, empirical, total, samples, math.sqrt(mean_square_range), price, lambda_)


def check_budget(complexity_nats: float, samples: int) -> None:
    """Refuse an empty sample or a complexity that is not positive.

    Raises
    ------
    CertificateError
        Naming the value.
    """
    if samples < 1:
        raise CertificateError(f"{samples} samples; a bound needs at least one scored token.")
    if not (complexity_nats > 0 and math.isfinite(complexity_nats)):
        raise CertificateError(f"the complexity is {complexity_nats} nats; it must be positive and finite.")
