"""What a row `control_variates` may choose from (docs/bounds.md, "Control variates alone").

The certified model is smoothed by itself, as in a row of its own, and so are the other models of its chain: nothing is
mixed. What is left of the certified model's loss after a part of each of the others' has less variance, and each of
these is bounded by a statement of its own, which pays for that model's message alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy.typing as npt

from tokenbounds.bounds.references import variate_losses
from tokenbounds.bounds.smoothing import loss_ceiling, loss_floor, smooth
from tokenbounds.certificates.rows.chain_candidates import ChainProblem, Floats, Path


@dataclass(frozen=True)
class VariateProblem(ChainProblem):
    """A set of references with its grids and its budget (docs/bounds.md, "Control variates alone").

    Links are the references, then what is left of the model.
    A sub-chain is a choice of references, and the certified model. Coefficient j, counted from 1, is of reference j.
    """

    def grid(self, place: int) -> tuple[float, ...]:
        """Smoothing weights, towards uniform, of every model."""
        return self.alphas

    def weights(self, betas: Sequence[float]) -> tuple[float, ...]:
        """Factor of each link's bound in the row's bound: each reference's coefficient, then 1."""
        return (*betas[1:], 1.0)

    def places(self, path: Path) -> tuple[tuple[int, ...], ...]:
        """A reference depends on itself alone, what is left of the certified model on all."""
        return (*((place,) for place in range(len(path) - 1)), tuple(range(len(path))))

    def below(self, betas: Sequence[float], place: int) -> float:
        """Nothing is below; the coefficients are the weights of the references' links."""
        return 0.0

    def streams(
        self, path: Path, alphas: Sequence[float], betas: Sequence[float], nll_bits: Sequence[npt.ArrayLike]
    ) -> list[Floats]:
        """The smoothed losses [n] of the references, bits, then what is left of the certified model's."""
        sizes = [self.vocabulary_sizes[model] for model in path]
        *others, own = (
            smooth(nll_bits[model], alpha, size) for model, alpha, size in zip(path, alphas, sizes, strict=True)
        )
        return [*others, variate_losses(own, others, betas[1:])]

    def intervals(self, path: Path, alphas: Sequence[float], betas: Sequence[float]) -> list[tuple[float, float]]:
        """Smallest and largest value of each link, bits, whatever the data: parts of losses are not negative."""
        sizes = [self.vocabulary_sizes[model] for model in path]
        *others, (low, high) = (
            (loss_floor(alpha, size), loss_ceiling(alpha, size)) for alpha, size in zip(alphas, sizes, strict=True)
        )
        subtracted = math.fsum(beta * most for beta, (_, most) in zip(betas[1:], others, strict=True))
        return [*others, (low - subtracted, high)]
