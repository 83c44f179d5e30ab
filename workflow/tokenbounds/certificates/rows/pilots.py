"""Rows whose cells the pilot of a sample chooses (docs/bounds.md, "Choosing on a pilot")."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.azuma import bound_azuma
from tokenbounds.bounds.betting import lambda_grid
from tokenbounds.bounds.ledger import RowBudget
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.sampling import width_of_draws
from tokenbounds.bounds.smoothing import Weighting, least_alpha, loss_range
from tokenbounds.certificates.averages.passes import Average, CellAverages, ScoreStream
from tokenbounds.certificates.averages.sampled import Cell, average_sampled
from tokenbounds.certificates.rows.cells import LOG_VALUES, bound_cell, find_tangent
from tokenbounds.certificates.rows.errors import bound_known_share
from tokenbounds.certificates.rows.setting import Key, Setting

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Choice:
    """What the pilot says of a cell: the row's value, about, the cell with one lambda, its average logarithm, nats."""

    value: float
    cell: Cell
    log_nats: float


def bound_sampled(
    budgets: Sequence[RowBudget], scores: ScoreStream, setting: Setting, grids: Mapping[Weighting, Floats]
) -> dict[Key, Bound]:
    """Rows from a sample: its pilot chooses each row's cell (docs/bounds.md, "Choosing on a pilot").

    Parameters
    ----------
    budgets
        Of rows on bits per token, and of bets on errors that may have a centre.
    scores
        Of the sample's blocks.
    setting
        What the rows share.
    grids
        The lambdas of each smoothing weight.
    """
    sample, size = setting.sample, setting.vocabulary_size
    assert sample is not None
    of_losses = [
        Cell(weighting, kappa, lambdas)
        for weighting, lambdas in grids.items()
        for kappa in (setting.kappas if isinstance(weighting, float) else (0.0,))
    ]
    lambdas = lambda_grid(setting.spec.lambdas, 1.0)
    of_errors = [
        # Without a centre all lambdas share one wealth, so that there is nothing to choose.
        Cell(None, kappa, lambdas if kappa else np.empty(0), budget.metric.k)
        for budget in budgets
        if budget.metric.is_error
        for kappa in setting.kappas
    ]
    best: dict[Key, _Choice] = {}
    for budget in budgets:
        # Where a single draw leaves none for a pilot, a cell from the middle of the grids is as good as any.
        fitting = [cell for cell in (*of_losses, *of_errors) if cell.error_k == budget.metric.k]
        cell = fitting[len(fitting) // 2]
        middle = cell.lambdas[len(cell.lambdas) // 2 :][: budget.bound.uses_lambda]
        best[budget.metric, budget.bound] = _Choice(math.inf, replace(cell, lambdas=middle), 0.0)
    for cells in average_sampled(scores, sample.pilot, size, [*of_losses, *of_errors]) if sample.pilot_draws else ():
        for budget in budgets:
            if cells.error_k != budget.metric.k:
                continue
            for index in range(len(cells.lambdas)) if budget.bound.uses_lambda and len(cells.lambdas) else (None,):
                value = _guess(budget, cells, index, setting)
                if value < best[budget.metric, budget.bound].value:
                    chosen = slice(0) if index is None else slice(index, index + 1)
                    cell = Cell(cells.weighting, cells.kappa, cells.lambdas[chosen], cells.error_k)
                    log = 0.0 if index is None else cells.logs[index].mean
                    best[budget.metric, budget.bound] = _Choice(value, cell, log)
    averages = average_sampled(scores, sample, size, [choice.cell for choice in best.values()])
    found = {}
    for budget, cells, choice in zip(budgets, averages, best.values(), strict=True):
        index = 0 if len(cells.lambdas) else None
        found[budget.metric, budget.bound] = bound_cell(budget, cells, index, setting, choice.log_nats)
    return found


def _guess(budget: RowBudget, cells: CellAverages, index: int | None, setting: Setting) -> float:
    """About what a row's value will be with one cell, from its averages and deviations on the pilot."""
    assert setting.sample is not None
    left, delta = len(setting.sample.order) - setting.sample.pilot_draws, budget.delta_per_cell
    if index is not None:
        lambda_, log = float(cells.lambdas[index]), cells.logs[index]
        complexity = budget.complexity_nats + setting.lambda_price_nats
        value = LOG_VALUES[budget.bound](log.mean, lambda_, complexity, setting.tokens)
        _, parts, (low, high) = find_tangent(budget, cells, index, log.mean, setting)
        return cells.centre.mean + value + width_of_draws(_deviation(parts), high - low, left, delta)
    weighting = cells.weighting
    width = 1.0 if weighting is None else loss_range(least_alpha(weighting), setting.vocabulary_size)
    risk = cells.loss.mean + width_of_draws(_deviation(cells.loss), width, left, delta)
    if weighting is None:
        return bound_known_share(budget, min(risk, 1.0), setting).value
    if cells.square_range is not None:
        width = math.sqrt(cells.square_range.mean)
    return bound_azuma(risk, width, budget.complexity_nats, setting.tokens).value


def _deviation(average: Average) -> float:
    """Standard deviation of the draws."""
    assert average.draws is not None
    return float(np.std(average.draws))
