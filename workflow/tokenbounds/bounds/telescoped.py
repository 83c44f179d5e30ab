"""Telescoped bounds: a chain of models, each smoothed towards the cheaper one before it.

Source: docs/bounds.md, "Telescoping".

With p_0 uniform and p_j = (1 - alpha_j) theta_j + alpha_j p_(j-1), the loss of the last model is the sum of the links
r_j = l_j - l_(j-1), and r_j <= log2(1 / alpha_j) (for the first link l_1 <= log2(V / alpha_1)). Each link is bounded by
the betting form with the messages it depends on; delta is split over the links. A link may also subtract only a share
beta_j of the cheaper model's loss (docs/bounds.md, "Control variates"): then l_J is the sum of the links s_j = l_j -
beta_j l_(j-1), each times the product of the betas after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.betting import bound_betting
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.smoothing import check_alpha, loss_ceiling, smooth, smooth_towards
from tokenbounds.errors import CertificateError, ScoreError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TelescopedBound:
    """A bound on the last model's risk: the sum of its links' bounds, which hold jointly.

    Attributes
    ----------
    value, empirical
        Sums over the links, each times its weight, bits per token.
    links
        One betting bound per link, cheapest model first; a link's value may be negative.
    """

    value: float
    empirical: float
    links: tuple[Bound, ...]

    @property
    def gap(self) -> float:
        """The certificate minus the empirical risk."""
        return self.value - self.empirical


def link_losses(
    nll_bits: Sequence[npt.ArrayLike],
    alphas: Sequence[float],
    vocabulary_size: int,
    betas: Sequence[float] | None = None,
) -> list[Floats]:
    """Split the smoothed losses of a chain's last model into its links (docs/bounds.md, "Telescoping").

    Parameters
    ----------
    nll_bits
        Raw losses [n] of each model on the same tokens, cheapest first, bits; infinity is allowed.
    alphas
        Smoothing weight of each model.
    vocabulary_size
        V.
    betas
        How much of the cheaper model's loss each link subtracts; the first is without effect. All of it by default.

    Returns
    -------
    One float64 [n] per model, bits: s_1 = l_1, then s_j = l_j - beta_j l_(j-1).

    Raises
    ------
    ScoreError
        If the streams differ in length.
    """
    parts = check_betas(betas, len(alphas))
    if not nll_bits or len(nll_bits) != len(alphas):
        raise CertificateError(f"{len(nll_bits)} score streams and {len(alphas)} alphas; give one alpha per model.")
    streams = [np.asarray(stream, dtype=np.float64) for stream in nll_bits]
    if len({stream.shape for stream in streams}) != 1:
        raise ScoreError("the chain's score streams hold different numbers of tokens; score all on the same plan.")
    links = [smooth(streams[0], alphas[0], vocabulary_size)]
    base = links[0]
    for stream, alpha, beta in zip(streams[1:], alphas[1:], parts[1:], strict=True):
        gain = smooth_towards(stream, base, alpha)
        links.append(gain if beta == 1.0 else gain + (1.0 - beta) * base)
        base = base + gain
    return links


def link_ceilings(alphas: Sequence[float], vocabulary_size: int, betas: Sequence[float] | None = None) -> list[float]:
    """Largest value of each link, bits (docs/bounds.md, "Telescoping" and "Control variates").

    log2(V / alpha_1) for the first; then log2(1 / alpha_j), plus 1 - beta_j times the largest loss of the model before.
    """
    parts = check_betas(betas, len(alphas))
    for alpha in alphas:
        check_alpha(alpha)
    found = [loss_ceiling(alphas[0], vocabulary_size)]
    largest = found[0]
    for alpha, beta in zip(alphas[1:], parts[1:], strict=True):
        gain = -math.log2(alpha)
        found.append(gain + (1.0 - beta) * largest)
        largest += gain
    return found


def link_weights(betas: Sequence[float]) -> list[float]:
    """Factor of each link's bound in the last model's: later betas' product (docs/bounds.md, "Control variates")."""
    return [math.prod(betas[place + 1 :]) for place in range(len(betas))]


def check_betas(betas: Sequence[float] | None, links: int) -> Sequence[float]:
    """The betas of a chain's links; by default every link subtracts all of the cheaper model's loss.

    Raises
    ------
    CertificateError
        If there is not one for each link, or one of a later link is not in (0, 1].
    """
    if betas is None:
        return [1.0] * links
    if len(betas) != links or not all(0.0 < beta <= 1.0 for beta in betas[1:]):
        raise CertificateError(f"the betas {list(betas)} of {links} links must be one for each, above 0 and at most 1.")
    return betas


def bound_telescoped(
    links: Sequence[npt.ArrayLike],
    ceilings: Sequence[float],
    complexities_nats: Sequence[float],
    *,
    lambdas: int = 32,
    weights: npt.ArrayLike | None = None,
    betas: Sequence[float] | None = None,
) -> TelescopedBound:
    """Bound the risk of the last model of a chain by the sum of betting bounds on its links.

    Source: docs/bounds.md, "Telescoping" and "Control variates". With one link this is `betting.bound_betting`.

    Parameters
    ----------
    links
        Link losses [n] each, bits (`link_losses`).
    ceilings
        Largest value of each link, fixed before the data, bits (`link_ceilings`).
    complexities_nats
        L of each link without the price of its lambdas, nats: **all** messages the link depends on (its own and the
        cheaper ones'), the choices of alphas and chain, and ln(1 / the link's share of delta).
    lambdas
        Size of each link's grid.
    weights
        Counts [n], if the links are values of a joint histogram.
    betas
        As given to `link_losses` and `link_ceilings`.
    """
    if not links or not len(links) == len(ceilings) == len(complexities_nats):
        raise CertificateError(
            f"{len(links)} links, {len(ceilings)} ceilings, {len(complexities_nats)} complexities: give one per model."
        )
    bounds = tuple(
        bound_betting(link, ceiling, complexity, lambdas=lambdas, weights=weights)
        for link, ceiling, complexity in zip(links, ceilings, complexities_nats, strict=True)
    )
    factors = link_weights(check_betas(betas, len(links)))
    value, empirical = (
        math.fsum(factor * each for factor, each in zip(factors, parts, strict=True))
        for parts in ([bound.value for bound in bounds], [bound.empirical for bound in bounds])
    )
    return TelescopedBound(value, empirical, bounds)
