"""Control variates over several references at once, each bounded by its own statement.

Source: docs/bounds.md, "Several references".

References q_k are smoothed by themselves, with losses b_k of at most c_k. The model is smoothed towards their mixture
q = sum_k w_k q_k with w_k = beta_k / B, B = sum_k beta_k <= 1, and what is left to bound of its loss is
s = l - sum_k beta_k b_k <= log2(1 / alpha) + (1 / B - 1) sum_k beta_k c_k. With one reference this is a chain of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.betting import bound_betting
from tokenbounds.bounds.smoothing import check_alpha, smooth_towards
from tokenbounds.bounds.telescoped import Floats, TelescopedBound
from tokenbounds.errors import CertificateError


def difference_losses(
    nll_bits: npt.ArrayLike, references: Sequence[npt.ArrayLike], alpha: float, betas: Sequence[float]
) -> Floats:
    """What is left of a model's loss after a part of each reference's (docs/bounds.md, "Several references").

    Parameters
    ----------
    nll_bits
        Raw losses [n] of the model, bits; infinity is allowed.
    references
        Smoothed losses [n] of each reference on the same tokens, bits, finite.
    alpha
        Weight of the references' mixture in the model's prediction.
    betas
        Coefficient of each reference, above 0, at most 1 together.

    Returns
    -------
    float64 [n], bits: the loss of (1 - alpha) p + alpha q less the references' parts.
    """
    check_coefficients(betas, len(references))
    losses = [np.asarray(reference, dtype=np.float64) for reference in references]
    total = math.fsum(betas)
    # log2 of the mixture, one reference after the other; its loss is at most the average of theirs by their weights.
    mixture = np.logaddexp2.reduce([math.log2(beta / total) - loss for beta, loss in zip(betas, losses, strict=True)])
    subtracted = sum(beta * loss for beta, loss in zip(betas, losses, strict=True))
    difference: Floats = smooth_towards(nll_bits, -mixture, alpha) - mixture - subtracted
    return difference


def variate_losses(losses: Floats, references: Sequence[Floats], betas: Sequence[float]) -> Floats:
    """What is left of a model's loss after a part of each reference's, none of them mixed with it.

    Source: docs/bounds.md, "Control variates alone". As losses are not negative, none exceeds the model's own.

    Parameters
    ----------
    losses
        Smoothed losses [n] of the model, bits.
    references
        Smoothed losses [n] of each reference on the same tokens, bits.
    betas
        Coefficient of each reference, above 0.
    """
    left = losses
    for reference, beta in zip(references, betas, strict=True):
        left = left - beta * reference
    return left


def difference_ceiling(alpha: float, betas: Sequence[float], ceilings: Sequence[float]) -> float:
    """Largest value of `difference_losses`, bits, from those of references (docs/bounds.md, "Several references")."""
    check_alpha(alpha)
    check_coefficients(betas, len(ceilings))
    left = 1.0 / math.fsum(betas) - 1.0
    parts = math.fsum(beta * ceiling for beta, ceiling in zip(betas, ceilings, strict=True))
    # Rounding leaves a difference a little above at times; no factor of a bet may become negative by that.
    return (-math.log2(alpha) + max(left, 0.0) * parts) * (1.0 + 2.0**-40)


def check_coefficients(betas: Sequence[float], references: int) -> None:
    """Refuse coefficients that are not one for each reference, or not positive, or more than 1 together.

    Raises
    ------
    CertificateError
        Naming them.
    """
    if not betas or len(betas) != references or min(betas) <= 0.0 or math.fsum(betas) > 1.0:
        raise CertificateError(
            f"the betas {list(betas)} of {references} references must be one for each, above 0, and at most 1 together."
        )


def bound_with_references(
    difference: npt.ArrayLike,
    references: Sequence[npt.ArrayLike],
    ceilings: Sequence[float],
    complexities_nats: Sequence[float],
    *,
    betas: Sequence[float],
    lambdas: int = 32,
    weights: npt.ArrayLike | None = None,
) -> TelescopedBound:
    """Bound a model's risk by a betting bound on each reference and one on the difference from them.

    Source: docs/bounds.md, "Several references".

    Parameters
    ----------
    difference
        As `difference_losses` gives it, [n], bits.
    references
        Smoothed losses [n] of each reference, bits.
    ceilings
        Largest loss of each reference, then of the difference (`difference_ceiling`), fixed before the data, bits.
    complexities_nats
        L of each reference, then of the difference, without the price of lambdas, nats: of a reference its own
        message, of the difference those of the model and of all references; of each the choice among candidates
        (references, betas, alphas) and ln(1 / its share of delta).
    betas
        Coefficient of each reference.
    lambdas
        Size of each statement's grid.
    weights
        Counts [n], if the losses are values of a joint histogram.
    """
    check_coefficients(betas, len(references))
    streams = [*references, difference]
    if not len(streams) == len(ceilings) == len(complexities_nats):
        raise CertificateError(
            f"{len(streams)} streams of losses, {len(ceilings)} ceilings, {len(complexities_nats)} complexities: give "
            "one for each reference, and one for the difference."
        )
    bounds = tuple(
        bound_betting(stream, ceiling, complexity, lambdas=lambdas, weights=weights)
        for stream, ceiling, complexity in zip(streams, ceilings, complexities_nats, strict=True)
    )
    factors = (*betas, 1.0)
    value, empirical = (
        math.fsum(factor * each for factor, each in zip(factors, parts, strict=True))
        for parts in ([bound.value for bound in bounds], [bound.empirical for bound in bounds])
    )
    return TelescopedBound(value, empirical, bounds)
