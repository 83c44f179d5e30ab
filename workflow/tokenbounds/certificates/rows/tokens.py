"""The rows of a certificate: every metric under every bound, with the best of the priced grids.

Every cell of the grids is computed, exact to within 2^-36, and the best is stated. What may be chosen from is paid for
beforehand by the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.azuma import bound_azuma, bound_azuma_predictable
from tokenbounds.bounds.betting import betting_value, bound_errors, lambda_grid
from tokenbounds.bounds.centred import Tangent, bound_centred_errors, error_centres
from tokenbounds.bounds.freedman import bound_freedman, freedman_value
from tokenbounds.bounds.kinds import BPD, BoundKind, Metric
from tokenbounds.bounds.ledger import Budget, RowBudget, split_delta
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.sampling import width_of_draws
from tokenbounds.bounds.smoothing import TokenAlphas, Weighting, least_alpha, loss_ceiling, loss_floor, loss_range
from tokenbounds.certificates.averages.entropy_moments import EntropyMoments
from tokenbounds.certificates.averages.passes import (
    Average,
    CellAverages,
    FirstPass,
    Sample,
    ScoreStream,
    average_cells,
    average_sampled,
    run_first_pass,
)
from tokenbounds.certificates.averages.sampled import Cell
from tokenbounds.certificates.rows.chains import ChainModel, bound_chains
from tokenbounds.certificates.rows.ledger_lines import ledger_row
from tokenbounds.certificates.rows.units import Units, bound_units
from tokenbounds.certificates.schema import Ledger, LedgerRow, Link, Row, Stated
from tokenbounds.config import BoundsSpec
from tokenbounds.scores.entropies import most_entropy

Floats = npt.NDArray[np.float64]

Key = tuple[Metric, BoundKind]

_LOG_VALUES: dict[BoundKind, Callable[[float, float, float, int], float]] = {
    BoundKind.BETTING: betting_value,
    BoundKind.FREEDMAN: freedman_value,
}


@dataclass(frozen=True)
class Setting:
    """What all rows share.

    Attributes
    ----------
    spec
        Metrics, bounds and grids.
    tokens
        m, tokens of the corpus.
    vocabulary_size
        V, what the model chooses among.
    sample
        The sampled blocks; None if every token was scored.
    units
        Numbers of documents and blocks; None if only a sample was scored.
    delta
        Failure probability of these rows together; None if they are all that the specification states.
    token_alphas
        The weights among which the message's smoothing head chooses for each token; None without a head.
    entropies
        Whether the scores hold the entropies of predictions, of which centres are made.
    known_tokens
        Those that the model and the tokenizer both have, among which a guess is uniform; None: V. A model with tokens
        that no text contains would be compared with too bad a guess.
    """

    spec: BoundsSpec
    tokens: int
    vocabulary_size: int
    sample: Sample | None
    units: Units | None = None
    delta: Fraction | None = None
    token_alphas: TokenAlphas | None = None
    entropies: bool = False
    known_tokens: int | None = None

    @property
    def guessed_tokens(self) -> int:
        """How many tokens a uniform guess chooses among."""
        return self.known_tokens or self.vocabulary_size

    @property
    def kappas(self) -> tuple[float, ...]:
        """The distinct factors of the entropy that may be chosen for a centre."""
        return tuple(sorted(set(self.spec.kappas))) if self.entropies else (0.0,)

    @property
    def alphas(self) -> tuple[float, ...]:
        """The distinct smoothing weights that may be chosen."""
        return tuple(sorted(set(self.spec.alphas)))

    @property
    def lambda_price_nats(self) -> float:
        """What choosing a lambda with the data in view costs, nats."""
        return math.log(self.spec.lambdas)

    @property
    def top_k(self) -> tuple[int, ...]:
        """The k below V, for which an error is possible."""
        return tuple(sorted({k for k in self.spec.top_k if k < self.guessed_tokens}))


@dataclass(frozen=True, kw_only=True)
class Statement(Stated):
    """The rows of a certificate, what they were paid with, and why some that were asked for are missing."""

    notes: tuple[str, ...]


def state_bounds(
    scores: ScoreStream,
    setting: Setting,
    message_bits: int,
    *,
    name: str = "message",
    chain: Sequence[ChainModel] = (),
    first_pass: FirstPass | None = None,
    messages: Mapping[str, int] | None = None,
) -> Statement:
    """Compute every row of a certificate in a few passes over its scores.

    Parameters
    ----------
    scores
        Losses and ranks of the scored tokens.
    setting
        Failure probability, metrics, bounds, grids, and the corpus's and vocabulary's sizes.
    message_bits
        C: 8 × the size of the message's file, and of a coarse message beneath it; 0 for a model that never saw the
        corpus.
    name
        What the certified message is called.
    chain
        Cheaper models, cheapest first, towards which the model may be smoothed.
    first_pass
        That of `scores`, if it has been made already.
    messages
        Bits of every message that the model is decoded from, by identity, which add up to `message_bits`: what it
        shares with the chain is paid once.

    Raises
    ------
    CertificateError
        If a bound's assumption does not hold for the data.
    ScoreError
        If the scores break their contract.
    """
    budgets = _split(setting, message_bits)
    models = [*chain, ChainModel(name, message_bits, setting.vocabulary_size, scores, messages, setting.entropies)]
    of_chains, of_units, of_tokens = (
        [budget for budget in budgets.rows if belongs(budget.bound)]
        for belongs in (lambda kind: kind.uses_chain, lambda kind: kind.unit, lambda kind: kind.is_single)
    )
    chains = bound_chains(of_chains, models, setting.spec, setting.tokens, setting.sample)
    bounds = {
        **bound_units(of_units, scores, setting.units, setting.alphas, setting.vocabulary_size, setting.spec.lambdas),
        **_bound_tokens(of_tokens, scores, setting, first_pass),
    }
    rows, paid = [], []
    for budget in budgets.rows:
        if budget.bound in chains:
            chain_row = chains[budget.bound]
            rows.append(_row(budget, chain_row.bound, setting, chain_row.links))
            paid.append(LedgerRow(metric=budget.metric, bound=budget.bound, entries=chain_row.entries))
        else:
            bound = bounds[budget.metric, budget.bound]
            rows.append(_row(budget, bound, setting))
            paid.append(ledger_row(budget, bound))
    ledger = Ledger(delta=str(budgets.delta), rows=tuple(paid))
    return Statement(rows=tuple(rows), ledger=ledger, notes=tuple(_notes(setting)))


def _bound_tokens(
    budgets: Sequence[RowBudget], scores: ScoreStream, setting: Setting, first_pass: FirstPass | None
) -> dict[Key, Bound]:
    """The rows of one model over tokens, by metric and bound."""
    if not budgets:
        return {}
    first_pass = first_pass or run_first_pass(
        scores,
        setting.sample,
        setting.vocabulary_size,
        setting.top_k,
        setting.token_alphas,
        entropies=setting.kappas != (0.0,),
    )
    found = {
        (budget.metric, budget.bound): _bound_errors(budget, first_pass, budget.metric.k, setting)
        for budget in budgets
        if budget.metric.k is not None
    }
    losses = [budget for budget in budgets if budget.metric == BPD]
    grids = _grids(losses, setting)
    if setting.sample is not None:
        return found | _bound_sampled(losses, scores, setting, grids)
    for cells in average_cells(first_pass, grids, setting.kappas):
        for budget in losses:
            key = (budget.metric, budget.bound)
            indices = range(len(cells.lambdas)) if budget.bound.uses_lambda else (None,)
            bounds = [_bound_loss(budget, cells, index, setting) for index in indices]
            found[key] = min([*([found[key]] if key in found else []), *bounds], key=lambda bound: bound.value)
    return found


def _bound_sampled(
    budgets: Sequence[RowBudget], scores: ScoreStream, setting: Setting, grids: Mapping[Weighting, Floats]
) -> dict[Key, Bound]:
    """Rows on bits per token from a sample: its pilot chooses each row's cell, which the other draws bound."""
    sample, size = setting.sample, setting.vocabulary_size
    assert sample is not None
    every = [
        (weighting, kappa, lambdas)
        for weighting, lambdas in grids.items()
        for kappa in (setting.kappas if isinstance(weighting, float) else (0.0,))
    ]
    best: dict[Key, tuple[float, Cell, float]] = {}  # value on the pilot, the cell, its average logarithm there
    for budget in budgets:
        # Where a single draw leaves none for a pilot, a cell from the middle of the grids is as good as any.
        weighting, kappa, lambdas = every[len(every) // 2]
        middle = lambdas[len(lambdas) // 2 :][: budget.bound.uses_lambda]
        best[budget.metric, budget.bound] = (math.inf, (weighting, kappa, middle), 0.0)
    for cells in average_sampled(scores, sample.pilot, size, every) if sample.pilot_draws else ():
        for budget in budgets:
            for index in range(len(cells.lambdas)) if budget.bound.uses_lambda else (None,):
                value = _guess(budget, cells, index, setting)
                if value < best[budget.metric, budget.bound][0]:
                    chosen = slice(0) if index is None else slice(index, index + 1)
                    cell = (cells.weighting, cells.kappa, cells.lambdas[chosen])
                    log = 0.0 if index is None else cells.logs[index].mean
                    best[budget.metric, budget.bound] = (value, cell, log)
    averages = average_sampled(scores, sample, size, [cell for _, cell, _ in best.values()])
    found = {}
    for budget, cells, (_, _, log) in zip(budgets, averages, best.values(), strict=True):
        index = 0 if budget.bound.uses_lambda else None
        found[budget.metric, budget.bound] = _bound_loss(budget, cells, index, setting, log)
    return found


def _guess(budget: RowBudget, cells: CellAverages, index: int | None, setting: Setting) -> float:
    """About what a row's value will be with one cell, from its averages and deviations on the pilot."""
    assert setting.sample is not None
    left, delta = len(setting.sample.order) - setting.sample.pilot_draws, budget.delta_per_cell
    if index is not None:
        lambda_, log = float(cells.lambdas[index]), cells.logs[index]
        complexity = budget.complexity_nats + setting.lambda_price_nats
        value = _LOG_VALUES[budget.bound](log.mean, lambda_, complexity, setting.tokens)
        _, parts, (low, high) = _tangent(budget, cells, index, log.mean, setting)
        return cells.kappa * cells.entropy.mean + value + width_of_draws(_deviation(parts), high - low, left, delta)
    width = loss_range(least_alpha(cells.weighting), setting.vocabulary_size)
    risk = cells.loss.mean + width_of_draws(_deviation(cells.loss), width, left, delta)
    if cells.square_range is not None:
        width = math.sqrt(cells.square_range.mean)
    return bound_azuma(risk, width, budget.complexity_nats, setting.tokens).value


def _deviation(average: Average) -> float:
    """Standard deviation of the draws."""
    assert average.draws is not None
    return float(np.std(average.draws))


def _grids(budgets: Sequence[RowBudget], setting: Setting) -> dict[Weighting, Floats]:
    """The lambdas of every smoothing weight that the rows need."""
    if not budgets:
        return {}
    size = setting.spec.lambdas if any(budget.bound.uses_lambda for budget in budgets) else 0
    ways: list[Weighting] = [*setting.alphas, *([setting.token_alphas] if setting.token_alphas else [])]
    ceilings = {each: loss_ceiling(least_alpha(each), setting.vocabulary_size) for each in ways}
    return {each: lambda_grid(size, ceiling) if size else np.empty(0) for each, ceiling in ceilings.items()}


def named_rows(setting: Setting) -> list[Key]:
    """Metric and bound of every row that a setting asks for."""
    metrics = Metric.stated(setting.spec.top_k, setting.guessed_tokens)
    bounds = dict.fromkeys(setting.spec.bounds)
    return [(metric, bound) for metric in metrics for bound in bounds if bound.allows(metric)]


def _split(setting: Setting, message_bits: int) -> Budget:
    spec = setting.spec
    budgets = split_delta(
        spec.delta if setting.delta is None else setting.delta,
        named_rows(setting),
        message_bits=message_bits,
        alphas=len(setting.alphas),
        lambdas=spec.lambdas,
        sampling_share=None if setting.sample is None else spec.sampling_share,
        by_token=setting.token_alphas is not None,
        centres=len(setting.kappas),
    )
    budgets.check()
    return budgets if setting.sample is None else budgets.shared_by(spec.certificates_per_sample)


def _bound_loss(
    budget: RowBudget, cells: CellAverages, index: int | None, setting: Setting, guess_nats: float = 0.0
) -> Bound:
    """The bound of one cell: a smoothing weight, and the lambda at `index` unless it is Azuma's.

    On a sample the pilot's average logarithm, `guess_nats`, is where a bet with a centre is replaced by its tangent.
    """
    least, size = least_alpha(cells.weighting), setting.vocabulary_size
    low, high = loss_floor(least, size), loss_ceiling(least, size)
    own = cells.weighting if isinstance(cells.weighting, TokenAlphas) else None
    named: dict[str, Any] = {"token_alphas": own.grid} if own else {"alpha": least}
    if index is None:
        risk = cells.loss.upper(low, high, budget.delta_per_cell)
        if own:
            return replace(_bound_own_ranges(budget, cells, own, risk, setting), **named)
        bound = bound_azuma(risk, loss_range(least, size), budget.complexity_nats, setting.tokens)
        sampling = max(0.0, risk - cells.loss.mean)
        return replace(bound, empirical=cells.loss.mean, sampling=sampling, **named)
    lambda_, log = float(cells.lambdas[index]), cells.logs[index]
    complexity = budget.complexity_nats + setting.lambda_price_nats
    unsampled = _LOG_VALUES[budget.bound](log.mean, lambda_, complexity, setting.tokens)
    unsampled += cells.kappa * cells.entropy.mean
    if log.draws is None:
        value = unsampled
    elif cells.kappa == 0.0:
        lowest = log.lower(math.log1p(-lambda_ * high), math.log1p(-lambda_ * low), budget.delta_per_cell)
        value = _LOG_VALUES[budget.bound](lowest, lambda_, complexity, setting.tokens)
    else:
        tangent, parts, ends = _tangent(budget, cells, index, guess_nats, setting)
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


def _tangent(
    budget: RowBudget, cells: CellAverages, index: int, guess_nats: float, setting: Setting
) -> tuple[Tangent, Average, tuple[float, float]]:
    """A bet's tangent at the pilot's average logarithm, the quantity that it averages, and its interval, bits."""
    lambda_, log, entropy = float(cells.lambdas[index]), cells.logs[index], cells.entropy
    complexity = budget.complexity_nats + setting.lambda_price_nats
    if budget.bound is BoundKind.FREEDMAN:
        tangent = Tangent.of_freedman(lambda_, complexity, setting.tokens)
    else:
        tangent = Tangent.of_betting(guess_nats, lambda_, complexity, setting.tokens)
    parts = entropy.combined(cells.kappa, log, -tangent.slope)
    least, size = least_alpha(cells.weighting), setting.vocabulary_size
    ends = tangent.interval(loss_floor(least, size), loss_ceiling(least, size), cells.kappa * most_entropy(size))
    return tangent, parts, ends


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


def _bound_errors(budget: RowBudget, first_pass: FirstPass, k: int, setting: Setting) -> Bound:
    """The bound of a top-k error; every bound used is non-decreasing in the share of errors."""
    moments, errors = first_pass.moments, first_pass.errors[k]
    if budget.bound is BoundKind.BETTING and isinstance(moments, EntropyMoments):
        entropies, wrong, tokens = moments.errors_by_entropy(k)
        centres = error_centres(entropies, k, setting.kappas)
        centred, place = bound_centred_errors(wrong, tokens, centres, budget.complexity_nats)
        return replace(centred, empirical=errors.mean, kappa=setting.kappas[place])
    highest = errors.upper(0.0, 1.0, budget.delta_per_cell)
    bound, unsampled = (_error_bound(budget, share, setting) for share in (highest, errors.mean))
    return replace(bound, empirical=errors.mean, sampling=bound.value - unsampled.value)


def _error_bound(budget: RowBudget, share: float, setting: Setting) -> Bound:
    if budget.bound is BoundKind.AZUMA:
        return bound_azuma(share, 1.0, budget.complexity_nats, setting.tokens)
    if budget.bound is BoundKind.BETTING:
        return bound_errors(share, budget.complexity_nats, setting.tokens)
    return bound_freedman(
        [0.0, 1.0],
        1.0,
        budget.complexity_nats,
        lambdas=setting.spec.lambdas,
        weights=[1.0 - share, share],
        samples=setting.tokens,
    )


def _row(budget: RowBudget, bound: Bound, setting: Setting, links: tuple[Link, ...] = ()) -> Row:
    guess = budget.metric.random_guess(setting.guessed_tokens)
    return Row(
        metric=budget.metric,
        bound=budget.bound,
        value=float(bound.value),
        empirical=float(bound.empirical),
        gap=float(bound.gap),
        complexity=float(bound.complexity_nats),
        range=float(bound.range),
        alpha=bound.alpha,
        lambda_=bound.lambda_,
        sampling=max(0.0, float(bound.sampling)),
        random_guess=guess,
        vacuous=bool(bound.value >= guess),
        delta=float(budget.delta),
        alphas=bound.token_alphas,
        kappa=bound.kappa,
        links=links,
    )


def _notes(setting: Setting) -> list[str]:
    skipped = sorted({k for k in setting.spec.top_k if k >= setting.guessed_tokens})
    notes = [
        f"Top-{k} error is not stated: {k} guesses out of {setting.guessed_tokens} tokens never miss." for k in skipped
    ]
    used = [bound for bound in dict.fromkeys(setting.spec.bounds) if bound.uses_chain]
    if used and setting.top_k:
        notes.append(
            f"Top-k errors have no row for {' and '.join(used)}: ranks under models that are mixed are not known from "
            "their ranks one by one, and a difference of two errors has no shorter range than an error."
        )
    return notes
