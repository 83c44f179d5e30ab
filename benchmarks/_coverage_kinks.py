"""A chain whose control variate has a kink, on the sources of `bound_coverage.py`."""

from __future__ import annotations

import numpy as np
from _coverage_sources import ALPHAS, DELTA, VOCABULARY, Trial, budget
from tokenbounds.bounds.kinks import Kink, kinked_ceilings, kinked_links
from tokenbounds.bounds.telescoped import bound_telescoped

LAMBDAS = 16


def kinked_excess(trial: Trial, span: float, bits: float) -> float:
    """The truth minus the bound of the chosen model over a base that sees the last token only.

    With factors on the gap and on the messages' bits.
    """
    alphas, kink = (ALPHAS[0], ALPHAS[1]), Kink(0.5, 1.0)
    base_prediction = np.where(trial.context % 2 == 1, 0.75, 0.25)
    with np.errstate(divide="ignore"):
        ones, zeros = (
            [-np.log2(p if token else 1.0 - p) for p in (base_prediction, trial.prediction)] for token in (1, 0)
        )
    one_token = np.isclose(trial.nll_bits, 0.0) == (trial.prediction > 0.5)
    streams = [np.where(one_token, one, zero) for one, zero in zip(ones, zeros, strict=True)]
    totals = [budget(bits * 4, DELTA / 2, 1), budget(bits * (4 + trial.message_bits), DELTA / 2, 1)]
    links, ceilings = (
        kinked_links(streams, alphas, VOCABULARY, kink),
        kinked_ceilings(alphas, VOCABULARY, kink),
    )
    result = bound_telescoped(links, ceilings, totals, lambdas=LAMBDAS)
    truth = sum(
        float(np.mean(weight * np.add(*kinked_links(each, alphas, VOCABULARY, kink))))
        for each, weight in ((ones, trial.chance), (zeros, 1.0 - trial.chance))
    )
    return truth - result.empirical - span * result.gap
