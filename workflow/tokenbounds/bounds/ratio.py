"""Confidence bounds on a ratio of expectations from i.i.d. documents (docs/bounds.md, "Error bars").

A document has T tokens and a sum A over them, with low x T <= A <= high x T. What new documents give per token is rho =
E[A] / E[T]. Neither the mean of the documents' means nor a variance over tokens describes it: long documents count
more, and tokens of one document are not independent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.betting import lambda_fractions
from tokenbounds.bounds.sampling import first_refuted
from tokenbounds.errors import CertificateError

Floats = npt.NDArray[np.float64]

_PORTFOLIO = 32
_DOCUMENTS = 1 << 14  # at once: memory does not grow with their number
_BISECTIONS = 30  # to 2^-30 of the range; the end that is stated is the safe one
_ROUNDING = 2.0**-40  # of the range: sums of documents are rounded


def upper_ratio(
    sums: npt.ArrayLike,
    tokens: npt.ArrayLike,
    low: float,
    high: float,
    longest: int,
    delta: float,
    nats: float = 0.0,
) -> float:
    """Upper confidence bound on E[A] / E[T] at level 1 - delta.

    For the true rho, rho x T - A has mean zero, and rho x T - A >= -(high - low) x longest. So the wealth
    prod_d (1 + b (rho T_d - A_d) / ((high - low) x longest)), a bet b in (0, 1), is a non-negative martingale that
    starts at 1, and so is its average over a fixed portfolio of bets. It exceeds 1 / delta with probability at most
    delta (Ville), and increases with rho: the bound is where it reaches 1 / delta. Source: docs/bounds.md,
    "Error bars", after Waudby-Smith & Ramdas 2024.

    Parameters
    ----------
    sums
        A_d, one per document [n], in any unit.
    tokens
        T_d [n], at most `longest`; not all 0.
    low, high
        Range of one token's value, fixed before the documents were seen.
    longest
        Largest number of tokens that a document may have, fixed before the documents were seen.
    delta
        Failure probability of this one statement.
    nats
        Price of what was chosen with the documents in view: of a model, its message's bits times ln 2.

    Returns
    -------
    float
        At most `high`; `high` if the documents say nothing.

    Raises
    ------
    CertificateError
        If a document is longer than `longest`, a sum is outside its range, or an argument is out of its domain.
    """
    lengths, shares = _scaled(sums, tokens, low, high, longest)
    if not 0.0 < delta < 1.0:
        raise CertificateError(f"a failure probability of {delta}; it lies strictly between 0 and 1.")
    bets = lambda_fractions(_PORTFOLIO)[:, None]  # [k, 1]
    doubt = (lengths.size + 64) * np.finfo(np.float64).eps

    def log_wealths(ratio: float) -> Floats:
        won, size = np.zeros(len(bets)), np.zeros(len(bets))  # [k]
        for start in range(0, lengths.size, _DOCUMENTS):
            part = slice(start, start + _DOCUMENTS)
            # Each factor is at least 1 - b: a share of `longest` won or lost, both in [0, 1].  [k, documents]
            logs = np.log1p(bets * (ratio * lengths[part] - shares[part]))
            won, size = won + logs.sum(axis=1), size + np.abs(logs).sum(axis=1)
        wealths: Floats = won - doubt * size
        return wealths

    # The ratio in units of the range, in [0, 1]; the wealth at the plain estimate is at most about 1.
    above = first_refuted(log_wealths, float(shares.sum() / lengths.sum()), delta, nats, _BISECTIONS)
    return low + (high - low) * min(1.0, above + _ROUNDING)


def lower_ratio(
    sums: npt.ArrayLike,
    tokens: npt.ArrayLike,
    low: float,
    high: float,
    longest: int,
    delta: float,
    nats: float = 0.0,
) -> float:
    """Lower confidence bound: `upper_ratio` of the negated sums (docs/bounds.md, "Error bars")."""
    return -upper_ratio(-np.asarray(sums, dtype=np.float64), tokens, -high, -low, longest, delta, nats)


def ratio_interval(
    sums: npt.ArrayLike, tokens: npt.ArrayLike, high: float, longest: int, delta: float, nats: float = 0.0
) -> tuple[float, float, float]:
    """Estimate of E[A] / E[T], and both bounds, each at level 1 - delta (docs/bounds.md, "Error bars").

    Parameters
    ----------
    sums, tokens, longest, nats
        As for `upper_ratio`.
    high
        Largest value of one token, fixed before the documents were seen; the smallest is 0.
    delta
        Failure probability of each bound.
    """
    values, lengths = np.asarray(sums, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    low, up = (bound(values, lengths, 0.0, high, longest, delta, nats) for bound in (lower_ratio, upper_ratio))
    return float(values.sum() / lengths.sum()), max(0.0, low), up


def _scaled(sums: npt.ArrayLike, tokens: npt.ArrayLike, low: float, high: float, longest: int) -> tuple[Floats, Floats]:
    """Lengths [n] as shares of `longest`, and sums [n] as shares of the largest that such a document can have."""
    values, lengths = np.asarray(sums, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if values.ndim != 1 or values.shape != lengths.shape or values.size == 0:
        raise CertificateError("no documents were given; an interval needs at least one, with its sum and its length.")
    if not high > low:
        raise CertificateError(f"[{low}, {high}] is not an interval.")
    if not (lengths.min() >= 0 and lengths.max() <= longest and lengths.any()):
        raise CertificateError(
            f"documents have {lengths.min():.0f} to {lengths.max():.0f} tokens, but {longest} was stated as the most. "
            "State a limit that was fixed before the documents were seen, and cut documents there."
        )
    shares = (values - low * lengths) / (high - low)
    if not (np.all(shares >= -1e-9 * lengths) and np.all(shares <= lengths * (1.0 + 1e-9))):
        raise CertificateError(f"the mean of a document is outside [{low}, {high}], the interval that is assumed.")
    return lengths / longest, np.clip(shares, 0.0, lengths) / longest
