"""Bets with a predictable centre, and on a sample of blocks, on the sources of `bound_coverage.py`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from _coverage_sources import ALPHAS, BLOCK, DELTA, VOCABULARY, Floats, Trial, budget
from tokenbounds.bounds.betting import betting_value, lambda_grid
from tokenbounds.bounds.centred import Tangent, bound_centred
from tokenbounds.bounds.sampling import pilot_draws, upper_mean
from tokenbounds.bounds.smoothing import loss_ceiling, loss_floor, smooth

LAMBDAS = 16
DRAWS = 12
SHARE = 0.4  # of delta, for sampling
KAPPAS = (0.0, 0.5, 1.0)


def centred_excess(trial: Trial, span: float, bits: float, peek: bool) -> float:
    """The truth minus the bound, with factors on the range and on the message's bits.

    What stands for the entropy is known from the last token. With `peek` it is known from the token itself, as the
    entropy of the *next* prediction would be: no centre.
    """
    entropy = 4.0 * (trial.error if peek else trial.context % 2 == 0)
    total = budget(bits * trial.message_bits)
    found = []
    for alpha in ALPHAS:
        losses, ceiling = smooth(trial.nll_bits, alpha, VOCABULARY), loss_ceiling(alpha, VOCABULARY)
        gap = bound_centred(span * losses, span * entropy, span * ceiling, total, kappas=KAPPAS, lambdas=LAMBDAS).gap
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


def sampled_excess(trial: Trial, bits: float, ignore: bool) -> float:
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
                value = float(centre[:pilot].mean()) + betting_value(guess, lambda_, total, m)
                found.append((value, alpha, kappa, lambda_, guess, centre, logs))
    _, alpha, kappa, lambda_, guess, centre, logs = min(found, key=lambda cell: cell[0])
    tangent = Tangent.of_betting(guess, lambda_, total, m)
    parts = centre - tangent.slope * logs
    ends = tangent.interval(loss_floor(alpha, VOCABULARY), loss_ceiling(alpha, VOCABULARY), 4.0 * kappa)
    mean = float(parts.mean()) if ignore else upper_mean(parts[pilot:], *ends, DELTA * SHARE)
    return float(trial.expected_bits(alpha).mean()) - tangent.intercept - mean
