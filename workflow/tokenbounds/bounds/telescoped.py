"""Telescoped bounds: a chain of models, each smoothed towards the cheaper one before it.

Source: docs/bounds.md, "Telescoping".

With p_0 uniform and p_j = (1 - alpha_j) theta_j + alpha_j p_(j-1), the loss of the last model is the sum of the links
r_j = l_j - l_(j-1), and r_j <= log2(1 / alpha_j) (for the first link l_1 <= log2(V / alpha_1)). Each link is bounded by
the betting form with the messages it depends on; delta is split over the links. A link may also subtract a part beta_j
of the cheaper model's loss only (docs/bounds.md, "Control variates"): then l_J is the sum of the links
s_j = l_j - beta_j l_(j-1), each times the product of the betas after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.azuma import check_budget
from tokenbounds.bounds.betting import bound_betting, lambda_grid
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.smoothing import check_alpha, loss_ceiling, smooth, smooth_towards
from tokenbounds.certificates.averages.histogram import FixedPointSum
from tokenbounds.errors import CertificateError, ScoreError

Floats = npt.NDArray[np.float64]

_BINS_PER_BIT = 256
_CHUNK = 1 << 15


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
    _check_chain(len(links), len(ceilings), len(complexities_nats))
    bounds = tuple(
        bound_betting(link, ceiling, complexity, lambdas=lambdas, weights=weights)
        for link, ceiling, complexity in zip(links, ceilings, complexities_nats, strict=True)
    )
    return _add_links(bounds, link_weights(check_betas(betas, len(links))))


def _add_links(bounds: tuple[Bound, ...], weights: Sequence[float] | None = None) -> TelescopedBound:
    factors = [1.0] * len(bounds) if weights is None else weights
    value, empirical = (
        math.fsum(factor * each for factor, each in zip(factors, parts, strict=True))
        for parts in ([bound.value for bound in bounds], [bound.empirical for bound in bounds])
    )
    return TelescopedBound(value, empirical, bounds)


def _check_chain(links: int, ceilings: int, complexities: int) -> None:
    if links == 0 or not links == ceilings == complexities:
        raise CertificateError(f"{links} links, {ceilings} ceilings, {complexities} complexities: give one per model.")


class ChainHistogram:
    """One pass over the aligned score streams of a chain, for many candidate tuples of alphas at once.

    See docs/bounds.md, "Telescoping".

    Links are rounded **up** to a multiple of 2^-8 bit, so bounds from it are valid, and within 2^-8 bit per link of
    the exact ones. `ChainSums` gives the exact averages for the cells finally chosen.

    Parameters
    ----------
    vocabulary_size
        V.
    candidates
        Tuples of alphas, one alpha per model; ln of their number is to be paid in each link's complexity.
    """

    def __init__(self, vocabulary_size: int, candidates: Sequence[tuple[float, ...]]) -> None:
        self.vocabulary_size = vocabulary_size
        self.candidates = [tuple(alphas) for alphas in candidates]
        self.tokens = 0
        self._ceilings = [link_ceilings(alphas, vocabulary_size) for alphas in self.candidates]
        self._offsets = [np.concatenate([[0.0], np.cumsum(each)[:-1]]) for each in self._ceilings]
        self._counts = [
            [np.zeros(math.ceil((low + high) * _BINS_PER_BIT) + 2) for low, high in zip(offsets, highs, strict=True)]
            for offsets, highs in zip(self._offsets, self._ceilings, strict=True)
        ]

    def update(self, nll_bits: Sequence[npt.ArrayLike]) -> None:
        """Add tokens: raw losses [n] of each model, cheapest first, bits."""
        streams = [np.asarray(stream) for stream in nll_bits]
        for start in range(0, streams[0].size, _CHUNK):
            part = [stream[start : start + _CHUNK] for stream in streams]
            for index, alphas in enumerate(self.candidates):
                for place, link in enumerate(link_losses(part, alphas, self.vocabulary_size)):
                    self._add(index, place, link)
        self.tokens += streams[0].size

    def _add(self, candidate: int, place: int, link: Floats) -> None:
        counts = self._counts[candidate][place]
        bins = np.ceil((link + self._offsets[candidate][place]) * _BINS_PER_BIT)
        if not np.all(bins >= -1):
            raise ScoreError("a loss is negative or not a number; score the tokens again.")
        index = np.clip(bins, 0, counts.size - 1).astype(np.int64)
        counts += np.bincount(index, minlength=counts.size)

    def links(self, candidate: int) -> list[tuple[Floats, Floats]]:
        """Values (bits, rounded up, at most the ceiling) and counts of each link of one candidate."""
        found = []
        for counts, low, high in zip(
            self._counts[candidate], self._offsets[candidate], self._ceilings[candidate], strict=True
        ):
            used = np.flatnonzero(counts)
            found.append((np.minimum(used / _BINS_PER_BIT - low, high), counts[used]))
        return found

    def bound(self, candidate: int, complexities_nats: Sequence[float], *, lambdas: int = 32) -> TelescopedBound:
        """`bound_telescoped` of one candidate; the complexities must pay for all candidates."""
        links = self.links(candidate)
        _check_chain(len(links), len(links), len(complexities_nats))
        bounds = tuple(
            bound_betting(values, ceiling, complexity, lambdas=lambdas, weights=counts)
            for (values, counts), ceiling, complexity in zip(
                links, self._ceilings[candidate], complexities_nats, strict=True
            )
        )
        return _add_links(bounds)

    def best(self, complexities_nats: Sequence[float], *, lambdas: int = 32) -> tuple[int, TelescopedBound]:
        """The candidate with the smallest bound, and that bound."""
        bounds = [self.bound(index, complexities_nats, lambdas=lambdas) for index in range(len(self.candidates))]
        winner = min(range(len(bounds)), key=lambda index: bounds[index].value)
        return winner, bounds[winner]


class ChainSums:
    """Exact averages of a chain's links, and of ln(1 - lambda x link), for one cell (docs/bounds.md, "Telescoping").

    Parameters
    ----------
    vocabulary_size
        V.
    alphas
        Smoothing weight of each model.
    lambdas
        The chosen lambda of each link.
    """

    def __init__(self, vocabulary_size: int, alphas: Sequence[float], lambdas: Sequence[float]) -> None:
        _check_chain(len(alphas), len(alphas), len(lambdas))
        self.vocabulary_size = vocabulary_size
        self.alphas, self.lambdas = tuple(alphas), tuple(lambdas)
        self._links = [FixedPointSum() for _ in alphas]
        self._logs = [FixedPointSum() for _ in alphas]

    def update(self, nll_bits: Sequence[npt.ArrayLike]) -> None:
        """Add tokens: raw losses [n] of each model, cheapest first, bits."""
        streams = [np.asarray(stream) for stream in nll_bits]
        for start in range(0, streams[0].size, _CHUNK):
            part = [stream[start : start + _CHUNK] for stream in streams]
            links = link_losses(part, self.alphas, self.vocabulary_size)
            for link, lambda_, total, logs in zip(links, self.lambdas, self._links, self._logs, strict=True):
                total.add(link)
                logs.add(np.log1p(-lambda_ * link))

    def bound(self, complexities_nats: Sequence[float], *, lambdas: int = 32) -> TelescopedBound:
        """The telescoped bound of the cell; each lambda must come from a grid of `lambdas` for its ceiling."""
        ceilings = link_ceilings(self.alphas, self.vocabulary_size)
        _check_chain(len(self._links), len(ceilings), len(complexities_nats))
        return _add_links(
            tuple(
                _bound_link(total, logs, lambda_, ceiling, (complexity, lambdas))
                for total, logs, lambda_, ceiling, complexity in zip(
                    self._links, self._logs, self.lambdas, ceilings, complexities_nats, strict=True
                )
            )
        )


def _bound_link(
    total: FixedPointSum, logs: FixedPointSum, lambda_: float, ceiling: float, budget: tuple[float, int]
) -> Bound:
    complexity_nats, lambdas = budget
    if not np.any(np.isclose(lambda_grid(lambdas, ceiling), lambda_, rtol=1e-12)):
        raise CertificateError(f"lambda {lambda_} is not of the grid of {lambdas} that the price pays for.")
    price = math.log(lambdas)
    check_budget(complexity_nats + price, total.count)
    value = -math.expm1(logs.mean - (complexity_nats + price) / total.count) / lambda_
    return Bound(value, total.mean, complexity_nats + price, total.count, ceiling, price, lambda_)
