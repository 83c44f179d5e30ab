"""Sources and models for `bound_coverage.py`: sequences of known conditional risks, and the model chosen on them.

Binary sources whose next-token probability an adversary sets with the whole past in view; a model names one token for
each context (1 bit each), and the one whose empirical risk is most flattering is chosen with the data and the truth in
view.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenbounds.bounds.smoothing import smooth

Floats = npt.NDArray[np.float64]

VOCABULARY = 2
ALPHAS = (0.05, 0.2)
DELTA = 0.05
BLOCK = 16


@dataclass(frozen=True)
class Sequences:
    """Trajectories [replications, tokens]: context, token, and the true probability that the token is 1."""

    context: npt.NDArray[np.int64]
    token: npt.NDArray[np.int64]
    chance: Floats
    contexts: int


def simulate(replications: int, tokens: int, phases: int, calm: bool, seed: int) -> Sequences:
    """Draw sequences from the adversary: fair coins in each context until a deviation can be kept.

    The context is the position modulo `phases` and the last token. It is frozen when its count of ones is one
    standard deviation (of its expected final count) away from its expectation: from then on its token is certain,
    so that the deviation stays. With `calm`, every other block of tokens repeats one token, so that blocks differ.
    """
    rng = np.random.default_rng(seed)
    contexts = 2 * phases
    rows = np.arange(replications)
    last = rng.integers(0, 2, replications)
    deviation = np.zeros((replications, contexts))
    frozen = np.zeros((replications, contexts), dtype=bool)
    limit = 0.5 * math.sqrt(tokens / contexts / (2 if calm else 1))
    shape = (replications, tokens)
    history = Sequences(np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape), contexts)
    for step in range(tokens):
        block = step // BLOCK
        state = 2 * (step % phases) + last
        certain = float((block // 2) % 2 if calm else (step // phases) % 2)
        resting = frozen[rows, state] | (calm and block % 2 == 1)
        chance = np.where(resting, certain, 0.5)
        token = (rng.random(replications) < chance).astype(np.int64)
        history.context[:, step], history.token[:, step], history.chance[:, step] = state, token, chance
        deviation[rows, state] += token - chance
        frozen[rows, state] |= np.abs(deviation[rows, state]) >= limit
        last = token
    return history


@dataclass(frozen=True)
class Trial:
    """One replication: raw losses of the chosen model, its errors, and what they were expected to be, per token."""

    nll_bits: Floats
    expected_bits: Callable[[float], Floats]
    error: Floats
    expected_error: Floats
    contexts: int
    context: npt.NDArray[np.int64]
    prediction: Floats
    chance: Floats

    @property
    def message_bits(self) -> int:
        return self.contexts

    def by_token(self, peek: bool) -> tuple[Floats, Floats, float]:
        """Smoothing weights by context (broken: by the token itself), losses under them, and the risk by context."""
        predictable = np.where(self.context % 2 == 0, *ALPHAS)
        one, zero = both_losses(self.prediction, predictable)
        alpha = np.where(self.error > 0, ALPHAS[1], ALPHAS[0]) if peek else predictable
        truth = float((self.chance * one + (1.0 - self.chance) * zero).mean())
        return alpha, smooth(self.nll_bits, alpha, VOCABULARY), truth


def choose_model(history: Sequences, index: int) -> Trial:
    """The model whose empirical risk flatters it most, context by context, among all 2^contexts."""
    context, token, chance = history.context[index], history.token[index], history.chance[index]
    ones = np.bincount(context, weights=token - chance, minlength=history.contexts)
    prediction = (ones > 0).astype(np.float64)[context]
    probability = np.where(token == 1, prediction, 1.0 - prediction)
    with np.errstate(divide="ignore"):
        nll = -np.log2(probability)
    guess = (prediction > 0.5).astype(np.int64)
    wrong = np.where(guess == 1, 1.0 - chance, chance)

    def expected(alpha: float) -> Floats:
        one, zero = both_losses(prediction, alpha)
        return chance * one + (1.0 - chance) * zero

    return Trial(
        nll, expected, (guess != token).astype(np.float64), wrong, history.contexts, context, prediction, chance
    )


def both_losses(prediction: Floats, alpha: float | Floats) -> tuple[Floats, Floats]:
    with np.errstate(divide="ignore"):
        return smooth(-np.log2(prediction), alpha, VOCABULARY), smooth(-np.log2(1.0 - prediction), alpha, VOCABULARY)


def budget(bits: float, delta: float = DELTA, alphas: int = len(ALPHAS)) -> float:
    """L without the price of lambdas, nats."""
    return bits * math.log(2.0) + math.log(alphas) + math.log(1.0 / delta)
