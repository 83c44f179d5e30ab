"""The rows of a certificate: every metric under every bound, with the best of the priced grids.

Where every token was scored, every cell of the grids is computed, exact to within 2^-36, and the best is stated. What
may be chosen from is paid for beforehand by the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.betting import lambda_grid
from tokenbounds.bounds.kinds import BPD
from tokenbounds.bounds.ledger import RowBudget
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.smoothing import Weighting, least_alpha, loss_ceiling
from tokenbounds.certificates.averages.passes import FirstPass, ScoreStream, average_cells, run_first_pass
from tokenbounds.certificates.rows.cells import bound_cell
from tokenbounds.certificates.rows.chains import ChainModel, bound_chains
from tokenbounds.certificates.rows.errors import bound_scored_errors
from tokenbounds.certificates.rows.ledger_lines import ledger_row
from tokenbounds.certificates.rows.pilots import bound_sampled
from tokenbounds.certificates.rows.setting import Key, Setting, split_setting
from tokenbounds.certificates.rows.units import bound_units
from tokenbounds.certificates.schema import Ledger, LedgerRow, Link, Row, Stated

Floats = npt.NDArray[np.float64]


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
    budgets = split_setting(setting, message_bits)
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
    chosen = [budget for budget in budgets if setting.has_pilot(budget)]
    found = {
        (budget.metric, budget.bound): bound_scored_errors(budget, first_pass, budget.metric.k, setting)
        for budget in budgets
        if budget.metric.k is not None and budget not in chosen
    }
    losses = [budget for budget in budgets if budget.metric == BPD]
    grids = _grids(losses, setting)
    if setting.sample is not None:
        return found | bound_sampled(chosen, scores, setting, grids)
    for cells in average_cells(first_pass, grids, setting.kappas):
        for budget in losses:
            key = (budget.metric, budget.bound)
            indices = range(len(cells.lambdas)) if budget.bound.uses_lambda else (None,)
            bounds = [bound_cell(budget, cells, index, setting) for index in indices]
            found[key] = min([*([found[key]] if key in found else []), *bounds], key=lambda bound: bound.value)
    return found


def _grids(budgets: Sequence[RowBudget], setting: Setting) -> dict[Weighting, Floats]:
    """The lambdas of every smoothing weight that the rows need."""
    if not budgets:
        return {}
    size = setting.spec.lambdas if any(budget.bound.uses_lambda for budget in budgets) else 0
    ways: list[Weighting] = [*setting.alphas, *([setting.token_alphas] if setting.token_alphas else [])]
    ceilings = {each: loss_ceiling(least_alpha(each), setting.vocabulary_size) for each in ways}
    return {each: lambda_grid(size, ceiling) if size else np.empty(0) for each, ceiling in ceilings.items()}


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
