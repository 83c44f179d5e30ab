"""Prediction smoothing: a model mixed with a floor has bounded losses (docs/bounds.md, "Smoothing").

Everything here acts on stored raw losses: to change alpha, no model has to run again. Losses are in bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenbounds.errors import CertificateError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TokenAlphas:
    """Smoothing weights that differ from token to token, each known before its token.

    See docs/bounds.md, "A weight for each token".

    Attributes
    ----------
    grid
        The values that a weight may have, fixed before the data or inside the message; strictly increasing.
    """

    grid: tuple[float, ...]

    def index(self, alphas: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Position of each token's weight [n] in the grid.

        Raises
        ------
        CertificateError
            If one is not among them.
        """
        values, grid = np.asarray(alphas, dtype=np.float64), np.array(self.grid)
        positions = np.minimum(np.searchsorted(grid, values), len(grid) - 1)
        if not np.array_equal(grid[positions], values):
            raise CertificateError("a token's smoothing weight is not among those that its message names.")
        return positions

    def ranges(self, vocabulary_size: int) -> Floats:
        """Width of the interval of smoothed losses under each weight of the grid, bits; decreasing."""
        return np.array([loss_range(alpha, vocabulary_size) for alpha in self.grid])


Weighting = float | TokenAlphas


def least_alpha(weighting: Weighting) -> float:
    """The smallest smoothing weight that a token may have: it decides how large a smoothed loss can be.

    See docs/bounds.md, "A weight for each token".
    """
    return weighting.grid[0] if isinstance(weighting, TokenAlphas) else weighting


def smooth(nll_bits: npt.ArrayLike, alpha: npt.ArrayLike, vocabulary_size: int) -> Floats:
    """Losses of (1 - alpha) p + alpha / V, from the raw losses -log2 p (docs/bounds.md, "Smoothing").

    Parameters
    ----------
    nll_bits
        Raw losses [n], bits; infinity is allowed.
    alpha
        Smoothing weight in (0, 1), one for all or one per token [n].
    vocabulary_size
        V.

    Returns
    -------
    float64 [n], bits; non-decreasing in `nll_bits`, at most log2(V / alpha).
    """
    weight = np.asarray(alpha, dtype=np.float64)
    probability = np.exp2(-np.asarray(nll_bits, dtype=np.float64))
    return -np.log2((1.0 - weight) * probability + weight / vocabulary_size)


def smooth_towards(nll_bits: npt.ArrayLike, base_bits: npt.ArrayLike, alpha: npt.ArrayLike) -> Floats:
    """Losses of (1 - alpha) p + alpha q minus the losses of q: the difference a telescoped link bounds, in bits.

    See docs/bounds.md, "Telescoping".

    Parameters
    ----------
    nll_bits
        Raw losses of p [n], bits.
    base_bits
        Losses of the cheaper model q [n], bits, finite.
    alpha
        Weight of q in (0, 1).

    Returns
    -------
    float64 [n], bits; at most log2(1 / alpha), and at least minus `base_bits`.
    """
    weight = np.asarray(alpha, dtype=np.float64)
    ratio = np.exp2(np.asarray(base_bits, dtype=np.float64) - np.asarray(nll_bits, dtype=np.float64))
    return -np.log2((1.0 - weight) * ratio + weight)


def loss_ceiling(alpha: float, vocabulary_size: int) -> float:
    """Largest smoothed loss, log2(V / alpha), bits (docs/bounds.md, "Smoothing")."""
    check_alpha(alpha)
    return float(np.log2(vocabulary_size) - np.log2(alpha))


def loss_floor(alpha: float, vocabulary_size: int) -> float:
    """Smallest smoothed loss, -log2(1 - alpha + alpha / V), bits (docs/bounds.md, "Smoothing")."""
    check_alpha(alpha)
    return float(-np.log1p(-alpha * (1.0 - 1.0 / vocabulary_size)) / np.log(2.0))


def loss_range(alpha: float, vocabulary_size: int) -> float:
    """Width of the interval of smoothed losses, log2(1 + (1 - alpha) V / alpha) = ceiling - floor, bits.

    See docs/bounds.md, "Smoothing".

    Lotfi et al. 2024 (arXiv 2407.18158), section 4.1.
    """
    check_alpha(alpha)
    return float(np.log1p((1.0 - alpha) * vocabulary_size / alpha) / np.log(2.0))


def check_alpha(alpha: float) -> None:
    """Refuse a smoothing weight outside (0, 1).

    Raises
    ------
    CertificateError
        Naming the value.
    """
    if not 0.0 < alpha < 1.0:
        raise CertificateError(f"alpha is {alpha}; a smoothing weight lies strictly between 0 and 1.")
