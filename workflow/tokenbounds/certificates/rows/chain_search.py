"""Search of a chain's candidates on a part of its tokens (docs/bounds.md, "Telescoping").

How a candidate is found needs no proof, since every candidate is paid for. The part is a fixed one of at most 2^15
tokens, spread evenly; smoothing weights and coefficients of control variates are improved one at a time, for every
sub-chain; lambdas and splits of delta are the best of their grids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.betting import betting_value, lambda_fractions
from tokenbounds.certificates.rows.chain_candidates import ChainProblem, Choice, Floats, Path

SEARCHED_TOKENS = 1 << 15
_SWEEPS = 3  # over all weights and coefficients of a sub-chain, at most
_BINS_PER_BIT = 64  # of a link's losses; coarse, as nothing rests on the search
# Multiples of 2^32 divided by the golden ratio, modulo 2^32, spread evenly and without a period (Knuth, 6.4).
_GOLDEN = 2654435769
_MODULUS = 1 << 32


def thin_rows(first: int, count: int, total: int) -> npt.NDArray[np.bool_]:
    """Which of the rows `first` … `first + count - 1` of `total` are searched: a share spread without a period."""
    rows = np.arange(first, first + count, dtype=np.uint64)
    keep = min(1.0, SEARCHED_TOKENS / max(total, 1))
    return (rows * np.uint64(_GOLDEN)) % np.uint64(_MODULUS) < keep * _MODULUS


class ChainSearch:
    """Guesses of candidates' bounds from a part of the tokens (docs/bounds.md, "Which chain").

    Parameters
    ----------
    problem
        What may be chosen.
    nll_bits
        Raw losses [n] of each model on the searched tokens, bits.
    weights
        Weight of each token [n]; ones if every token was scored.
    entropies
        Entropies [n] of each model's predictions on these tokens, bits; zeros where they are not known.
    draws, block_tokens
        Number of draws and their average length; 0 draws if every token was scored.
    """

    def __init__(
        self,
        problem: ChainProblem,
        nll_bits: Sequence[npt.ArrayLike],
        weights: npt.ArrayLike,
        entropies: Sequence[npt.ArrayLike] = (),
        draws: int = 0,
        block_tokens: float = 1.0,
    ) -> None:
        self._problem = problem
        self._nll_bits = [np.asarray(stream, dtype=np.float64) for stream in nll_bits]
        self._weights = np.asarray(weights, dtype=np.float64)
        self._entropies = entropies or [np.zeros(len(self._weights)) for _ in nll_bits]
        self._draws, self._block_tokens = draws, block_tokens
        self._fractions = lambda_fractions(problem.lambdas)

    def best(self, count: int) -> list[Choice]:
        """The `count` sub-chains that look best, each with its best weights, best first."""
        found = [self._descend(path) for path in self._problem.paths()]
        return sorted(found, key=lambda choice: (choice.guess, choice.path))[:count]

    def _descend(self, path: Path) -> Choice:
        """Improve one weight or coefficient at a time until none improves: the alphas, the betas, then the kappas."""
        size = len(path)
        # A point has one alpha per model, then one beta and one kappa per model; it starts in the middle of every grid.
        grids = [self._problem.grid(place) for place in range(size)]
        grids += [self._problem.betas(place) for place in range(size)]
        grids += [self._problem.centres(path, place) for place in range(size)]
        point = tuple(grid[len(grid) // 2] for grid in grids)
        best = self._guess(path, point)
        for _ in range(_SWEEPS):
            before = point
            for place, grid in enumerate(grids):
                for tried in (value for value in grid if value != point[place]):
                    moved = (*point[:place], tried, *point[place + 1 :])
                    guess = self._guess(path, moved)
                    best = min(best, guess, key=lambda choice: choice.guess)
                point = (*best.alphas, *best.betas, *best.kappas)
            if point == before:
                break
        return best

    def _guess(self, path: Path, point: tuple[float, ...]) -> Choice:
        """The best split of delta and the best lambdas for a sub-chain with given weights, coefficients and centres."""
        problem, size = self._problem, len(path)
        alphas, betas, kappas = point[:size], point[size : 2 * size], point[2 * size :]
        losses = problem.streams(path, alphas, betas, self._nll_bits)  # each link's losses [n]
        factors, entropies = problem.link_kappas(kappas), problem.link_entropies(path, self._entropies)
        centres = [kappa * entropy for kappa, entropy in zip(factors, entropies, strict=True)]  # [n] per link
        intervals = problem.intervals(path, alphas, betas)
        logs = [
            self._mean_logs(link - centre, (low - float(centre.max(initial=0.0)), high))
            for link, centre, (low, high) in zip(losses, centres, intervals, strict=True)
        ]  # [k] per link
        known = [float(np.average(centre, weights=self._weights)) for centre in centres]
        found = []
        for ratio in problem.ratios(path):
            value, lambdas = self._split(path, ratio, betas, logs, intervals)
            value += float(np.dot(problem.weights(betas), known))
            plain = tuple(float(mean[index]) for (mean, _), index in zip(logs, lambdas, strict=True))
            found.append(Choice(path, alphas, betas, kappas, ratio, lambdas, value, plain))
        return min(found, key=lambda choice: choice.guess)

    def _split(
        self,
        path: Path,
        ratio: Fraction,
        betas: tuple[float, ...],
        logs: list[tuple[Floats, Floats]],
        intervals: list[tuple[float, float]],
    ) -> tuple[float, tuple[int, ...]]:
        """Value of a split of delta, bits, and for each link the index of the best lambda."""
        problem, total, chosen = self._problem, 0.0, []
        complexities, weights = problem.complexities(path, ratio), problem.weights(betas)
        for (_, safe), (_, high), complexity, weight in zip(logs, intervals, complexities, weights, strict=True):
            spent = complexity + math.log(problem.lambdas)
            grid = self._fractions / high  # [k], 1 / bit
            values = [
                betting_value(float(log), float(lambda_), spent, problem.tokens)
                for log, lambda_ in zip(safe, grid, strict=True)
            ]
            chosen.append(int(np.argmin(values)))
            total += weight * values[chosen[-1]]
        return total, tuple(chosen)

    def _mean_logs(self, link: Floats, interval: tuple[float, float]) -> tuple[Floats, Floats]:
        """Average of ln(1 - lambda × link) for each lambda [k], and the same less the uncertainty of a sample."""
        low, high = interval
        # Losses [n] fall into b bins in use, so that k × b logarithms suffice in place of k × n.
        bins = np.rint((link - low) * _BINS_PER_BIT).clip(0).astype(np.int64)
        mass = np.bincount(bins, weights=self._weights)
        used = np.flatnonzero(mass)
        values, mass = np.minimum(low + used / _BINS_PER_BIT, high), mass[used] / mass.sum()  # [b], [b]
        logs = np.log1p(-np.outer(self._fractions / high, values))  # [k, b]
        mean: Floats = logs @ mass  # [k]
        safe = mean
        if self._draws:
            # As Bernstein's inequality has it, with the variance of block averages guessed from that of tokens.
            penalty = -math.log(float(self._problem.delta_sampling)) / self._draws
            variance = ((logs - mean[:, None]) ** 2) @ mass / self._block_tokens
            span = np.log1p(-self._fractions / high * low) - np.log1p(-self._fractions)
            safe = mean - np.sqrt(2.0 * variance * penalty) - span * penalty / 3.0
        return mean, safe
