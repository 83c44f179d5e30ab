"""Bounds of top-k errors, which smoothing leaves alone."""

from __future__ import annotations

from dataclasses import replace

from tokenbounds.bounds.azuma import bound_azuma
from tokenbounds.bounds.betting import bound_errors
from tokenbounds.bounds.centred import bound_centred_errors, error_centres
from tokenbounds.bounds.freedman import bound_freedman
from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.bounds.ledger import RowBudget
from tokenbounds.bounds.result import Bound
from tokenbounds.certificates.averages.entropy_moments import EntropyMoments
from tokenbounds.certificates.averages.passes import Average, FirstPass
from tokenbounds.certificates.rows.setting import Setting


def bound_scored_errors(budget: RowBudget, first_pass: FirstPass, k: int, setting: Setting) -> Bound:
    """The bound of a top-k error from one pass: with the wealth of all centres, if every token was scored."""
    moments, errors = first_pass.moments, first_pass.errors[k]
    if budget.bound is BoundKind.BETTING and isinstance(moments, EntropyMoments):
        entropies, wrong, tokens = moments.errors_by_entropy(k)
        centres = error_centres(entropies, k, setting.kappas)
        centred, place = bound_centred_errors(wrong, tokens, centres, budget.complexity_nats)
        return replace(centred, empirical=errors.mean, kappa=setting.kappas[place])
    return bound_error_share(budget, errors, setting)


def bound_error_share(budget: RowBudget, errors: Average, setting: Setting) -> Bound:
    """The bound of a top-k error without a centre; every bound used is non-decreasing in the share of errors."""
    highest = errors.upper(0.0, 1.0, budget.delta_per_cell)
    bound, unsampled = (bound_known_share(budget, share, setting) for share in (highest, errors.mean))
    return replace(bound, empirical=errors.mean, sampling=bound.value - unsampled.value)


def bound_known_share(budget: RowBudget, share: float, setting: Setting) -> Bound:
    """The bound if this share of the corpus's tokens are errors."""
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
