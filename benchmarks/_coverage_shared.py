"""A source for `bound_coverage.py` with many certificates over one sample, of which the luckiest is named.

Every model errs on its own random half of the blocks, and none of this is random given what precedes it. So the bound
for all messages at once costs nothing, and only the sample can go wrong. The blocks drawn are the same for all models,
and each model's errors on them are fair coins of its own.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from _coverage_sources import DELTA
from tokenbounds.bounds.betting import bound_errors
from tokenbounds.bounds.kinds import BoundKind, Metric
from tokenbounds.bounds.ledger import split_delta
from tokenbounds.bounds.sampling import upper_mean

CERTIFICATES = 1000
DRAWS = 60
TOKENS = 10**12
_SHARE = Fraction(4, 5)


def shared_violated(replications: int, seed: int, *, paid: bool) -> npt.NDArray[np.bool_]:
    """Whether the smallest of the certificates is false, bool[replications]; `paid`: each pays for all of them."""
    metric = Metric.top(1)
    ledger = split_delta(
        DELTA, [(metric, BoundKind.BETTING)], message_bits=8, alphas=1, lambdas=1, sampling_share=_SHARE
    )
    row = (ledger.shared_by(CERTIFICATES) if paid else ledger).row(metric, BoundKind.BETTING)

    def stated(errors: int) -> float:
        means = np.repeat([1.0, 0.0], [errors, DRAWS - errors])
        highest = upper_mean(means, 0.0, 1.0, row.delta_per_cell)
        return bound_errors(highest, row.complexity_nats, TOKENS).value

    luckiest = np.random.default_rng(seed).binomial(DRAWS, 0.5, (replications, CERTIFICATES)).min(axis=1)
    values = {errors: stated(errors) for errors in np.unique(luckiest).tolist()}
    return np.array([values[errors] < 0.5 for errors in luckiest.tolist()])
