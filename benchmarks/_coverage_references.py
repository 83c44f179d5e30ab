"""Sources for `bound_coverage.py` with references: fair coins, a counter, and the luckiest of many guessers.

Whoever certifies a model over two references chooses the second one, and how much of it to subtract, with the data in
view. Sound bounds pay for that in each of their statements; a choice that is not paid for, and a reference that has
read a token before it predicts it, must be caught. Where nothing is mixed, the reference is a hesitant twin of the
luckiest guesser: a choice of the guesser that is not paid for, and a twin without its own statement, must be caught.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from _coverage_sources import DELTA, VOCABULARY
from tokenbounds.bounds.references import (
    bound_with_references,
    difference_ceiling,
    difference_losses,
    variate_losses,
)
from tokenbounds.bounds.smoothing import loss_ceiling, smooth

Floats = npt.NDArray[np.float64]

TOKENS = 256
GUESSERS = 8192
SURE, TWIN = 0.9, 0.8  # what a guesser, and its twin, gives the token that it names
SHARES = ((0.1, 0.2), (0.1, 0.9))  # betas of counter and guesser to choose from
LAMBDAS = 4
ALPHA = 0.9  # nearly all of the prediction is the references'


def references_excess(replications: int, seed: int, *, paid: bool, peeks: bool) -> Floats:
    """The truth minus the smallest bound of all choices: above 0, and the certificate is false."""
    rng = np.random.default_rng(seed)
    return np.array([_excess(rng, paid=paid, peeks=peeks) for _ in range(replications)])


def _excess(rng: np.random.Generator, *, paid: bool, peeks: bool) -> float:
    tokens, luckiest = _guess(rng)
    luckiest = tokens if peeks else luckiest
    # The counter gives a 1 the share of ones so far, with one more of each token: [tokens].
    counted = (1 + np.cumsum(tokens) - tokens) / (2 + np.arange(TOKENS))
    alphas = (0.05, 0.05)
    ceilings = [loss_ceiling(alpha, VOCABULARY) for alpha in alphas]
    candidates = GUESSERS * len(SHARES) if paid else 1
    total = math.log(3 * candidates / DELTA)  # a third of delta for each statement, no message
    found = []
    for betas in SHARES:
        ones = (counted, np.where(luckiest == 1, SURE, 1 - SURE))  # chance of a 1 by each reference
        by_token = [_losses(ones, token, alphas, betas) for token in (0, 1)]  # [references + 1, tokens] each
        streams = np.where(tokens == 1, by_token[1], by_token[0])
        truth = np.mean((by_token[0] + by_token[1]) / 2, axis=1)  # fair coins
        bound = bound_with_references(
            streams[-1],
            list(streams[:-1]),
            [*ceilings, difference_ceiling(ALPHA, betas, ceilings)],
            [total] * 3,
            betas=betas,
            lambdas=LAMBDAS,
        )
        # No predictor of fair coins expects less than one bit; one that has seen them has no truth of its own.
        found.append(max(1.0, float(np.dot((*betas, 1.0), truth))) - bound.value)
    return max(found)


def _guess(rng: np.random.Generator) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Fair coins [tokens], and what the luckiest of many guessers named [tokens]."""
    tokens = rng.integers(0, 2, TOKENS)
    named = rng.integers(0, 1 << 64, (GUESSERS, TOKENS // 64), dtype=np.uint64)  # bits, fixed before the tokens
    wrong = np.bitwise_count(named ^ np.packbits(tokens.astype(np.uint8)).view(np.uint64)).sum(axis=1)  # [guessers]
    return tokens, np.unpackbits(named[np.argmin(wrong)].view(np.uint8))


def variates_excess(replications: int, seed: int, *, paid: bool, bounded: bool) -> Floats:
    """The truth minus the smallest bound of the luckiest guesser by way of its twin, nothing being mixed.

    If the twin is not `bounded`, what it expected is taken to be what was measured.
    """
    rng = np.random.default_rng(seed)
    return np.array([_excess_alone(rng, paid=paid, bounded=bounded) for _ in range(replications)])


def _excess_alone(rng: np.random.Generator, *, paid: bool, bounded: bool) -> float:
    tokens, luckiest = _guess(rng)
    right = luckiest == tokens  # [tokens]
    alpha, betas = 0.05, (0.5, 1.0)
    model, twin = (smooth(-np.log2(np.where(right, sure, 1 - sure)), alpha, VOCABULARY) for sure in (SURE, TWIN))
    truth = float(np.mean(smooth(-np.log2([SURE, 1 - SURE]), alpha, VOCABULARY)))  # of fair coins
    total = math.log(2 * (GUESSERS * len(betas) if paid else 1) / DELTA)  # half of delta for each statement
    ends, totals = [loss_ceiling(alpha, VOCABULARY)] * 2, [total] * 2
    found = []
    for beta in betas:
        left = variate_losses(model, [twin], [beta])
        bound = bound_with_references(left, [twin], ends, totals, betas=(beta,), lambdas=LAMBDAS)
        found.append(truth - bound.value + (0.0 if bounded else beta * bound.links[0].gap))
    return max(found)


def _losses(ones: tuple[Floats, Floats], token: int, alphas: tuple[float, float], betas: tuple[float, float]) -> Floats:
    """Losses of each reference and of the difference, were each token this one: [references + 1, tokens], bits."""
    smoothed = [
        smooth(-np.log2(one if token else 1 - one), alpha, VOCABULARY) for one, alpha in zip(ones, alphas, strict=True)
    ]
    return np.array([*smoothed, difference_losses(np.ones(TOKENS), smoothed, ALPHA, betas)])
