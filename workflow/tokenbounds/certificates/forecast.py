"""What bounds to expect before anything is scored: a plan for sizes and samples, not a statement.

The formulas are the certificate's own (docs/bounds.md), with expected losses in place of measured ones and the sampling
bound replaced by its leading terms (`sampling.draws_for_width`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.betting import lambda_grid
from tokenbounds.bounds.kinds import BPD, BoundKind, Metric
from tokenbounds.bounds.ledger import RowBudget, split_delta
from tokenbounds.bounds.sampling import PILOT_SHARE, draws_for_width, pilot_draws, width_of_draws
from tokenbounds.bounds.smoothing import loss_ceiling, loss_floor, loss_range, smooth
from tokenbounds.certificates.pilot import Pilot
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError

Floats = npt.NDArray[np.float64]

BOUNDS = tuple(bound for bound in BoundKind if bound.is_single)
_LARGEST = 1e18


@dataclass(frozen=True)
class Expected:
    """An expected bound on bits per token; `draws` is None where every token is scored."""

    bound: BoundKind
    draws: int | None
    value: float
    empirical: float
    alpha: float


@dataclass(frozen=True)
class _Summand:
    """What a bound averages, under each lambda of one alpha (a single entry for Azuma): mean, deviation, span."""

    means: Floats
    deviations: Floats
    spans: Floats


class Forecast:
    """Expected bounds for losses like a pilot's.

    Parameters
    ----------
    pilot
        How losses are spread.
    vocabulary_size
        V.
    spec
        delta, metrics and grids, as the certificate will state them.
    block_tokens
        Tokens of a sampled block.
    longest_over_mean
        Of a corpus by reference of which one block of each drawn document is scored: where documents are cut, over
        their average length. A block of a long document counts for that many times as much as one of an average
        document, at most; 1 for blocks drawn by tokens.

    Raises
    ------
    CertificateError
        If documents are longer on average than at most.
    """

    def __init__(
        self, pilot: Pilot, vocabulary_size: int, spec: BoundsSpec, block_tokens: int, longest_over_mean: float = 1.0
    ) -> None:
        if not 1.0 <= longest_over_mean < math.inf:
            raise CertificateError(
                f"the longest document is {longest_over_mean:g} times as long as the average one, but it is at least "
                "as long. State where documents are cut, then their average length."
            )
        self.vocabulary_size = vocabulary_size
        self.block_tokens = block_tokens
        self._uneven = longest_over_mean
        self._spec = spec
        self._alphas = tuple(sorted(set(spec.alphas)))
        self._ratio = pilot.ratio(block_tokens)
        self._losses = {alpha: self._summarize(pilot, alpha, None) for alpha in self._alphas}
        self._logs = {
            alpha: self._summarize(pilot, alpha, lambda_grid(spec.lambdas, loss_ceiling(alpha, vocabulary_size)))
            for alpha in self._alphas
        }

    @property
    def random_guess(self) -> float:
        """log2 V, bits per token: a bound at or above it is vacuous."""
        return math.log2(self.vocabulary_size)

    def expect(self, bound: BoundKind, message_bits: int, tokens: int, draws: int | None = None) -> Expected:
        """The bound to expect with the best alpha and lambda.

        Parameters
        ----------
        bound
            One of `BOUNDS`.
        message_bits, tokens
            C, bits, and m, tokens.
        draws
            Number of sampled blocks; None scores everything.
        """
        budget = self._budget(bound, message_bits, sampled=draws is not None)
        best = Expected(bound, draws, math.inf, math.inf, math.nan)
        for alpha in self._alphas:
            value = float(np.min(self._values(budget, alpha, tokens, draws)))
            if value < best.value:
                best = Expected(bound, draws, value, float(self._losses[alpha].means[0]), alpha)
        return best

    def draws_needed(self, bound: BoundKind, message_bits: int, tokens: int, width: float) -> int:
        """Number of draws with which the bound is about `width` bits above that from scoring everything."""
        alpha = self.expect(bound, message_bits, tokens).alpha
        budget = self._budget(bound, message_bits, sampled=True)
        summand = self._summand(bound, alpha)
        index = int(np.argmin(self._values(budget, alpha, tokens, None)))
        if bound.uses_lambda:
            ceiling = loss_ceiling(alpha, self.vocabulary_size)
            width *= float(lambda_grid(self._spec.lambdas, ceiling)[index])
            if bound is BoundKind.BETTING:
                share = (budget.complexity_nats + math.log(self._spec.lambdas)) / tokens
                width *= math.exp(share - float(summand.means[index]))
        deviation, span = float(summand.deviations[index]), float(summand.spans[index])
        after_pilot = draws_for_width(deviation, span, width, budget.delta_per_cell)
        return math.ceil(after_pilot / (1.0 - PILOT_SHARE))

    def most_bits(self, bound: BoundKind, tokens: int) -> int | None:
        """Largest message whose bound is not vacuous when every token is scored; None if there is none."""
        return _last(lambda bits: self.expect(bound, bits, tokens).value < self.random_guess)

    def fewest_tokens(self, bound: BoundKind, message_bits: int) -> int | None:
        """Smallest corpus on which the bound is not vacuous when every token is scored; None if there is none."""
        last = _last(lambda tokens: self.expect(bound, message_bits, max(1, tokens)).value >= self.random_guess)
        return None if last is None or last >= _LARGEST / 2 else last + 1

    def _summarize(self, pilot: Pilot, alpha: float, lambdas: Floats | None) -> _Summand:
        losses = smooth(pilot.losses, alpha, self.vocabulary_size)
        ends = np.array([loss_floor(alpha, self.vocabulary_size), loss_ceiling(alpha, self.vocabulary_size)])
        if lambdas is None:
            values, span = losses[None], [loss_range(alpha, self.vocabulary_size)]
        else:
            values = np.log1p(-lambdas[:, None] * losses)
            span = [float(np.ptp(np.log1p(-each * ends))) for each in lambdas]
        means = np.average(values, axis=1, weights=pilot.weights)
        variances = np.average((values - means[:, None]) ** 2, axis=1, weights=pilot.weights)
        # With blocks that stand for h of their kind, E[h^2] is at most E[h] times the largest h.
        deviations = np.sqrt(variances * self._uneven) * self._ratio
        return _Summand(means, deviations, np.array(span) * self._uneven)

    def _summand(self, bound: BoundKind, alpha: float) -> _Summand:
        return self._logs[alpha] if bound.uses_lambda else self._losses[alpha]

    def _budget(self, bound: BoundKind, message_bits: int, *, sampled: bool) -> RowBudget:
        spec = self._spec
        metrics = Metric.stated(spec.top_k, self.vocabulary_size)
        ledger = split_delta(
            spec.delta,
            [(metric, each) for metric in metrics for each in BOUNDS],
            message_bits=message_bits,
            alphas=len(self._alphas),
            lambdas=spec.lambdas,
            sampling_share=spec.sampling_share if sampled else None,
        )
        if sampled:
            ledger = ledger.shared_by(spec.certificates_per_sample)
        return ledger.row(BPD, bound)

    def _values(self, budget: RowBudget, alpha: float, tokens: int, draws: int | None) -> Floats:
        """The bound under each lambda."""
        summand = self._summand(budget.bound, alpha)
        widths = np.zeros_like(summand.means)
        if draws is not None:
            parts = zip(summand.deviations, summand.spans, strict=True)
            left = draws - pilot_draws(draws)
            widths = np.array([width_of_draws(float(d), float(s), left, budget.delta_per_cell) for d, s in parts])
        if not budget.bound.uses_lambda:
            share = budget.complexity_nats / tokens
            return summand.means + widths + loss_range(alpha, self.vocabulary_size) * math.sqrt(share / 2.0)
        share = (budget.complexity_nats + math.log(self._spec.lambdas)) / tokens
        exponent = share - summand.means + widths
        grid = lambda_grid(self._spec.lambdas, loss_ceiling(alpha, self.vocabulary_size))
        values: Floats = (exponent if budget.bound is BoundKind.FREEDMAN else -np.expm1(-exponent)) / grid
        return values


def _last(holds: Callable[[int], bool]) -> int | None:
    """Largest integer below 10^18 for which a condition that fails from some number on holds; None if none does."""
    if not holds(0):
        return None
    low, high = 0, 1
    while high < _LARGEST and holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
