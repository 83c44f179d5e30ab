"""Bets with a predictable centre, and on a sample of blocks, on the sources of `bound_coverage.py`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from _coverage_sources import ALPHAS, BLOCK, DELTA, VOCABULARY, Floats, Trial, both_losses, budget
from tokenbounds.bounds.betting import betting_value, bound_errors, lambda_grid, mean_log
from tokenbounds.bounds.centred import Tangent, bound_centred, bound_centred_errors, error_centres
from tokenbounds.bounds.freedman import freedman_value
from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.bounds.sampling import pilot_draws, upper_mean
from tokenbounds.bounds.smoothing import loss_ceiling, loss_floor, smooth
from tokenbounds.scores.centres import CENTRE_TILT

LAMBDAS = 16
DRAWS = 12
SHARE = 0.4  # of delta, for sampling
KAPPAS = (0.0, 0.5, 1.0)


def centred_excess(trial: Trial, span: float, bits: float, peek: bool, bound: BoundKind = BoundKind.BETTING) -> float:
    """The truth minus the bound, with factors on the range and on the message's bits.

    What stands for the entropy is known from the last token. With `peek` it is known from the token itself, as the
    entropy of the *next* prediction would be: no centre.
    """
    entropy = 4.0 * (trial.error if peek else trial.context % 2 == 0)
    total = budget(bits * trial.message_bits)
    found = []
    for alpha in ALPHAS:
        losses, ceiling = smooth(trial.nll_bits, alpha, VOCABULARY), loss_ceiling(alpha, VOCABULARY)
        if bound is BoundKind.BETTING:
            stated = bound_centred(span * losses, span * entropy, span * ceiling, total, kappas=KAPPAS, lambdas=LAMBDAS)
            gap = stated.gap
        else:
            gap = _freedman_gap(span * losses, span * entropy, span * ceiling, total)
        found.append((float(losses.mean()) + gap, alpha))
    value, alpha = min(found)
    return float(trial.expected_bits(alpha).mean()) - value


def _freedman_gap(losses: Floats, entropy: Floats, ceiling: float, total: float) -> float:
    """The gap of Freedman's bound with the best centre and lambda of priced grids, as rows of certificates have it."""
    total += math.log(LAMBDAS * len(KAPPAS))
    values = []
    for kappa in KAPPAS:
        grid = lambda_grid(LAMBDAS, ceiling)
        logs = mean_log(losses - kappa * entropy, grid)
        values += [
            kappa * float(entropy.mean()) + freedman_value(float(log), float(each), total, losses.size)
            for log, each in zip(logs, grid, strict=True)
        ]
    return min(values) - float(losses.mean())


def crossed_excess(trial: Trial, span: float, bits: float, peek: bool) -> float:
    """The truth minus the bound with cross-entropies as centres, under counts of what followed each context so far.

    With `peek` the counts have read the token that they predict, and are sure of it.
    """
    token = np.where(trial.error > 0, 1.0 - trial.prediction, trial.prediction)
    order = np.argsort(trial.context, kind="stable")  # of equal contexts, in time
    context, ones = trial.context[order], token[order]
    first = np.searchsorted(context, context)  # where each context's tokens begin
    seen, before = np.arange(ones.size) - first, np.cumsum(ones) - ones
    chance = np.empty_like(token)
    chance[order] = (before - before[first] + 0.5) / (seen + 1.0)
    if peek:
        chance = np.clip(token, 0.001, 0.999)
    total = budget(bits * trial.message_bits)
    found = []
    for alpha in ALPHAS:
        losses, ceiling = smooth(trial.nll_bits, alpha, VOCABULARY), loss_ceiling(alpha, VOCABULARY)
        one, zero = both_losses(trial.prediction, alpha)
        weights = chance * 2.0 ** (-CENTRE_TILT * one), (1.0 - chance) * 2.0 ** (-CENTRE_TILT * zero)
        expected = (weights[0] * one + weights[1] * zero) / (weights[0] + weights[1])
        gap = bound_centred(span * losses, span * expected, span * ceiling, total, kappas=KAPPAS, lambdas=LAMBDAS).gap
        found.append((float(losses.mean()) + gap, alpha))
    value, alpha = min(found)
    return float(trial.expected_bits(alpha).mean()) - value


def draw_blocks(trial: Trial, draws: int) -> npt.NDArray[np.int64]:
    """Numbers of drawn blocks [draws], from a seed of the trial's own."""
    seed = int(1e6 * trial.chance.sum()) + 7919 * int(trial.error.sum()) + int(trial.context[:64] @ np.arange(64))
    return np.random.default_rng(seed).integers(0, trial.error.size // BLOCK, draws)


def drawn_means(values: Floats, blocks: npt.NDArray[np.int64]) -> Floats:
    """Averages over drawn blocks [draws] of values [n]."""
    means: Floats = values.reshape(-1, BLOCK)[blocks].mean(axis=1)
    return means


def sampled_excess(trial: Trial, bits: float, ignore: bool, bound: BoundKind = BoundKind.BETTING) -> float:
    """The truth minus the bound from a sample, whose first draw chooses weight, centre and lambda.

    With `ignore` the average over the draws is taken for that over all tokens.
    """
    blocks, pilot, m = draw_blocks(trial, DRAWS), pilot_draws(DRAWS), trial.error.size
    nll_bits = trial.nll_bits.reshape(-1, BLOCK)[blocks]  # [draws, tokens of a block]
    entropy = 4.0 * (trial.context.reshape(-1, BLOCK)[blocks] % 2 == 0)
    total = budget(bits * trial.message_bits, DELTA * (1 - SHARE)) + math.log(LAMBDAS * len(KAPPAS))
    found = []
    for alpha in ALPHAS:
        losses, ceiling = smooth(nll_bits, alpha, VOCABULARY), loss_ceiling(alpha, VOCABULARY)
        for kappa in KAPPAS:
            centre = kappa * entropy.mean(axis=1)
            for lambda_ in lambda_grid(LAMBDAS, ceiling).tolist():
                logs = np.log1p(-lambda_ * (losses - kappa * entropy)).mean(axis=1)
                guess = float(logs[:pilot].mean())
                stated = betting_value if bound is BoundKind.BETTING else freedman_value
                value = float(centre[:pilot].mean()) + stated(guess, lambda_, total, m)
                found.append((value, alpha, kappa, lambda_, guess, centre, logs))
    _, alpha, kappa, lambda_, guess, centre, logs = min(found, key=lambda cell: cell[0])
    betting = Tangent.of_betting(guess, lambda_, total, m)
    tangent = betting if bound is BoundKind.BETTING else Tangent.of_freedman(lambda_, total, m)
    parts = centre - tangent.slope * logs
    ends = tangent.interval(loss_floor(alpha, VOCABULARY), loss_ceiling(alpha, VOCABULARY), 4.0 * kappa)
    mean = float(parts.mean()) if ignore else upper_mean(parts[pilot:], *ends, DELTA * SHARE)
    return float(trial.expected_bits(alpha).mean()) - tangent.intercept - mean


def centred_errors_excess(trial: Trial, span: float, bits: float, peek: bool) -> float:
    """The truth minus the bound on errors by the wealth of all centres, with factors on its gap and the message's bits.

    What stands for the entropy is known from the last token, or with `peek` from the token itself.
    """
    known = (trial.error > 0) if peek else (trial.context % 2 == 0)
    tokens, wrong = np.bincount(known, minlength=2), np.bincount(known, weights=trial.error, minlength=2)
    centres = error_centres(np.array([0.0, 4.0]), 1, KAPPAS)
    bound, _ = bound_centred_errors(wrong, tokens, centres, budget(bits * trial.message_bits, alphas=1))
    return float(trial.expected_error.mean()) - bound.empirical - span * bound.gap


def sampled_errors_excess(trial: Trial, bits: float, ignore: bool) -> float:
    """The truth minus the bound on errors from a sample, whose first draw chooses the centre and its lambda."""
    blocks, pilot, m = draw_blocks(trial, DRAWS), pilot_draws(DRAWS), trial.error.size
    error, context = (values.reshape(-1, BLOCK)[blocks] for values in (trial.error, trial.context))  # [draws, tokens]
    entropy = 4.0 * (context % 2 == 0)
    total = budget(bits * trial.message_bits, DELTA * (1 - SHARE), alphas=1) + math.log(len(KAPPAS))
    plain = error.mean(axis=1)
    best = (bound_errors(float(plain[:pilot].mean()), total, m).value, 0.0, 0.0, plain, plain)
    for kappa, each in zip(KAPPAS[1:], error_centres(entropy, 1, KAPPAS[1:]), strict=True):
        centre = each.mean(axis=1)
        for lambda_ in lambda_grid(LAMBDAS, 1.0).tolist():
            logs = np.log1p(-lambda_ * (error - each)).mean(axis=1)
            guess = betting_value(float(logs[:pilot].mean()), lambda_, total + math.log(LAMBDAS), m)
            value = float(centre[:pilot].mean()) + guess
            best = min(best, (value, kappa, lambda_, centre, logs), key=lambda cell: cell[0])
    _, kappa, lambda_, centre, logs = best
    if kappa == 0.0:
        mean = float(plain.mean()) if ignore else upper_mean(plain[pilot:], 0.0, 1.0, DELTA * SHARE)
        return float(trial.expected_error.mean()) - bound_errors(mean, total, m).value
    tangent = Tangent.of_betting(float(logs[:pilot].mean()), lambda_, total + math.log(LAMBDAS), m)
    parts = centre - tangent.slope * logs
    ends = tangent.interval(0.0, 1.0, float(error_centres(4.0, 1, (kappa,))[0]))
    mean = float(parts.mean()) if ignore else upper_mean(parts[pilot:], *ends, DELTA * SHARE)
    return float(trial.expected_error.mean()) - tangent.intercept - mean
