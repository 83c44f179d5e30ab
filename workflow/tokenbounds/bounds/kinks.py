"""A chain of two whose control variate has a kink (docs/bounds.md, "A control variate with a kink").

A link may subtract any fixed function g of the cheaper model's loss, if g is bounded by a statement of its own. With
g(l) = max(beta l, l - d) it subtracts a share of usual losses, as a control variate does, and all but d bits of large
ones, so that what remains never exceeds log2(1 / alpha) + d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.smoothing import check_alpha, loss_ceiling, smooth, smooth_towards
from tokenbounds.errors import CertificateError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Kink:
    """What a link subtracts of the cheaper model's loss l: g(l) = max(beta l, l - most_kept).

    Attributes
    ----------
    beta
        The share of usual losses, above 0 and at most 1.
    most_kept_bits
        d, the most of a loss that is not subtracted, bits; infinity for a control variate without a kink.
    """

    beta: float
    most_kept_bits: float

    def __post_init__(self) -> None:
        if not (0.0 < self.beta <= 1.0 and self.most_kept_bits >= 0.0):
            raise CertificateError(f"a kink with beta {self.beta} that keeps {self.most_kept_bits} bits of a loss.")

    def part(self, losses: npt.ArrayLike) -> Floats:
        """g of losses [n], bits: between 0 and the loss."""
        values = np.asarray(losses, dtype=np.float64)
        return np.maximum(self.beta * values, values - self.most_kept_bits)


def kinked_links(
    nll_bits: Sequence[npt.ArrayLike], alphas: tuple[float, npt.ArrayLike], vocabulary_size: int, kink: Kink
) -> tuple[Floats, Floats]:
    """Two streams whose bounds add up to one of the mixture's loss (docs/bounds.md, "A control variate with a kink").

    Parameters
    ----------
    nll_bits
        Raw losses [n] of the cheaper model and of the certified one, bits; infinity is allowed.
    alphas
        Their smoothing weights, the second towards the cheaper model: one, or one for each token [n] that is known
        before it is.
    vocabulary_size
        V.
    kink
        What is subtracted.

    Returns
    -------
    tuple
        float64 [n] each, bits: g(l_1) and l_2 - g(l_1), for `telescoped.bound_telescoped`.
    """
    cheaper, own = (np.asarray(stream, dtype=np.float64) for stream in nll_bits)
    base = smooth(cheaper, alphas[0], vocabulary_size)
    part = kink.part(base)
    return part, base + smooth_towards(own, base, alphas[1]) - part


def kinked_ceilings(alphas: tuple[float, float], vocabulary_size: int, kink: Kink) -> tuple[float, float]:
    """Largest values of both streams, bits (docs/bounds.md, "A control variate with a kink")."""
    check_alpha(alphas[1])
    largest = loss_ceiling(alphas[0], vocabulary_size)
    part = float(kink.part(largest))
    return part, largest - part - math.log2(alphas[1])
