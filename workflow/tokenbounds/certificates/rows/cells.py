"""The bound of one cell: a smoothing weight, or errors, with a centre and a lambda."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tokenbounds.bounds.azuma import bound_azuma, bound_azuma_predictable
from tokenbounds.bounds.betting import betting_value
from tokenbounds.bounds.centred import Tangent, error_centres
from tokenbounds.bounds.freedman import freedman_value
from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.bounds.ledger import RowBudget
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.smoothing import TokenAlphas, least_alpha, loss_ceiling, loss_floor, loss_range
from tokenbounds.certificates.averages.passes import Average, CellAverages
from tokenbounds.certificates.rows.errors import bound_error_share
from tokenbounds.certificates.rows.setting import Setting
from tokenbounds.scores.entropies import most_entropy

LOG_VALUES: dict[BoundKind, Callable[[float, float, float, int], float]] = {
    BoundKind.BETTING: betting_value,
    BoundKind.FREEDMAN: freedman_value,
}


def bound_cell(
    budget: RowBudget, cells: CellAverages, index: int | None, setting: Setting, guess_nats: float = 0.0
) -> Bound:
    """The bound of one cell: a smoothing weight, or errors, and the lambda at `index` unless there is none.

    On a sample the pilot's average logarithm, `guess_nats`, is where a bet with a centre is replaced by its tangent.
    """
    if index is None:
        return _bound_without_bet(budget, cells, setting)
    own = cells.weighting if isinstance(cells.weighting, TokenAlphas) else None
    named: dict[str, Any] = {"token_alphas": own.grid} if own else {"alpha": cells.weighting}
    low, high = _interval(cells, setting.vocabulary_size)
    lambda_, log = float(cells.lambdas[index]), cells.logs[index]
    complexity = budget.complexity_nats + setting.lambda_price_nats
    unsampled = LOG_VALUES[budget.bound](log.mean, lambda_, complexity, setting.tokens)
    unsampled += cells.centre.mean
    if log.draws is None:
        value = unsampled
    elif cells.kappa == 0.0:
        lowest = log.lower(math.log1p(-lambda_ * high), math.log1p(-lambda_ * low), budget.delta_per_cell)
        value = LOG_VALUES[budget.bound](lowest, lambda_, complexity, setting.tokens)
    else:
        tangent, parts, ends = find_tangent(budget, cells, index, guess_nats, setting)
        value = tangent.intercept + parts.upper(*ends, budget.delta_per_cell)
    return Bound(
        value=value,
        empirical=cells.loss.mean,
        complexity_nats=complexity,
        samples=setting.tokens,
        range=high,
        price_nats=setting.lambda_price_nats,
        lambda_=lambda_,
        sampling=max(0.0, value - unsampled),
        kappa=cells.kappa,
        **named,
    )


def find_tangent(
    budget: RowBudget, cells: CellAverages, index: int, guess_nats: float, setting: Setting
) -> tuple[Tangent, Average, tuple[float, float]]:
    """A bet's tangent at the pilot's average logarithm, the quantity that it averages, and its interval."""
    lambda_, log = float(cells.lambdas[index]), cells.logs[index]
    complexity = budget.complexity_nats + setting.lambda_price_nats
    if budget.bound is BoundKind.FREEDMAN:
        tangent = Tangent.of_freedman(lambda_, complexity, setting.tokens)
    else:
        tangent = Tangent.of_betting(guess_nats, lambda_, complexity, setting.tokens)
    parts = cells.centre.combined(1.0, log, -tangent.slope)
    ends = tangent.interval(*_interval(cells, setting.vocabulary_size), _largest_centre(cells, setting.vocabulary_size))
    return tangent, parts, ends


def _interval(cells: CellAverages, size: int) -> tuple[float, float]:
    """The interval of a token's loss, bits, or errors."""
    if cells.weighting is None:
        return 0.0, 1.0
    least = least_alpha(cells.weighting)
    return loss_floor(least, size), loss_ceiling(least, size)


def _largest_centre(cells: CellAverages, size: int) -> float:
    """The most that a token's centre may be, unit of the loss."""
    if cells.error_k is None:
        return cells.kappa * most_entropy(size)
    return float(error_centres(most_entropy(size), cells.error_k, (cells.kappa,))[0])


def _bound_without_bet(budget: RowBudget, cells: CellAverages, setting: Setting) -> Bound:
    """Azuma's bound of a loss, or the bound of errors with no centre, whose lambdas share one wealth."""
    if cells.weighting is None:
        return bound_error_share(budget, cells.loss, setting)
    least, size = least_alpha(cells.weighting), setting.vocabulary_size
    risk = cells.loss.upper(*_interval(cells, size), budget.delta_per_cell)
    if isinstance(cells.weighting, TokenAlphas):
        bound = _bound_own_ranges(budget, cells, cells.weighting, risk, setting)
        return replace(bound, token_alphas=cells.weighting.grid)
    bound = bound_azuma(risk, loss_range(least, size), budget.complexity_nats, setting.tokens)
    return replace(bound, empirical=cells.loss.mean, sampling=max(0.0, risk - cells.loss.mean), alpha=least)


def _bound_own_ranges(
    budget: RowBudget, cells: CellAverages, alphas: TokenAlphas, risk: float, setting: Setting
) -> Bound:
    """Azuma's bound where each token has its own range; lambda comes from a grid of guesses of their mean square."""
    assert cells.square_range is not None
    ranges = alphas.ranges(setting.vocabulary_size)
    guesses = np.geomspace(ranges[-1], ranges[0], setting.spec.lambdas)
    square = cells.square_range.upper(ranges[-1] ** 2 * (1 - 1e-9), ranges[0] ** 2 * (1 + 1e-9), budget.delta_per_cell)
    bound, unsampled = (
        bound_azuma_predictable(each, squares, guesses, budget.complexity_nats, setting.tokens)
        for each, squares in ((risk, square), (cells.loss.mean, cells.square_range.mean))
    )
    return replace(
        bound, empirical=cells.loss.mean, range=unsampled.range, sampling=max(0.0, bound.value - unsampled.value)
    )
