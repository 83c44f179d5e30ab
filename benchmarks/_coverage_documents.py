"""Sources for `bound_coverage.py` of which documents are drawn: corpora by reference, and independent documents."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from _coverage_sources import DELTA, budget
from tokenbounds.bounds.documents import bound_documents, bound_documents_betting
from tokenbounds.bounds.ratio import upper_ratio
from tokenbounds.bounds.sampling import lower_mean, upper_mean

Floats = npt.NDArray[np.float64]

KINDS = 16
LAMBDAS = 16
HELD, DRAWN = 4_000, 300  # documents of a corpus, and how many of them are drawn
WINDOW, LONGEST = 2, 16  # tokens of a block, and of a long document; others have one block


def documents_excess(replications: int, seed: int, *, betting: bool, span: float = 1.0, bits: float = 1.0) -> Floats:
    """The truth minus the bound, with factors on its gap and on the message's bits.

    Documents are one fair coin, repeated; a model names the token of each of 16 kinds (1 bit each).
    """
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, KINDS, (replications, 200))
    coins = rng.integers(0, 2, kinds.shape)
    excess = np.empty(replications)
    for index in range(replications):
        ones = np.bincount(kinds[index], weights=coins[index] - 0.5, minlength=KINDS)
        losses = (coins[index] != (ones > 0)[kinds[index]]).astype(np.float64)
        total = budget(bits * KINDS, alphas=1)
        if betting:
            gap = bound_documents_betting(losses, 1.0, total, lambdas=LAMBDAS).gap
        else:
            gap = bound_documents(losses, 1.0, total).gap
        excess[index] = 0.5 - losses.mean() - span * gap
    return excess


def reference_violated(replications: int, seed: int, *, partly: bool, by_ratio: bool, size_paid: bool) -> npt.NDArray:
    """Whether the bound on a corpus's average, or on its size, is false: bool[replications].

    A fifth of the documents are long, and their tokens are harder. With `partly` one block of each drawn document is
    scored. Without `by_ratio`, broken: every document counts alike, or a block for itself and not for all of its
    document's. Without `size_paid` the size is estimated.
    """
    rng = np.random.default_rng(seed)
    wrong = np.empty(replications, dtype=bool)
    for index in range(replications):
        long = rng.random(HELD) < 0.2
        tokens = np.where(long, LONGEST, WINDOW)
        chances = np.where(long, 0.6, 0.1)
        errors = rng.binomial(WINDOW, chances[:, None], (HELD, LONGEST // WINDOW))  # of each block
        errors[:, 1:] *= long[:, None]
        drawn = rng.integers(0, HELD, DRAWN)
        sums, lengths = errors[drawn].sum(axis=1).astype(np.float64), tokens[drawn].astype(np.float64)
        if partly:
            blocks = tokens[drawn] // WINDOW
            block = (rng.random(DRAWN) * blocks).astype(np.int64)
            factors = blocks if by_ratio else np.ones_like(blocks)
            sums, lengths = factors * errors[drawn, block], factors * float(WINDOW)
        if by_ratio or partly:
            highest = upper_ratio(sums, lengths, 0.0, 1.0, LONGEST, DELTA * 0.95)
        else:
            highest = upper_mean(sums / lengths, 0.0, 1.0, DELTA * 0.95)
        mean = lower_mean(tokens[drawn], 0.0, LONGEST, DELTA * 0.05) if size_paid else float(tokens[drawn].mean())
        wrong[index] = errors.sum() / tokens.sum() > highest or HELD * mean > tokens.sum()
    return wrong
