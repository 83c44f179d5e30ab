"""A chain whose control variate has a kink, on the sources of `bound_coverage.py`."""

from __future__ import annotations

import numpy as np
from _coverage_sources import ALPHAS, DELTA, VOCABULARY, Trial, budget
from tokenbounds.bounds.kinks import Kink, kinked_ceilings, kinked_links
from tokenbounds.bounds.telescoped import bound_telescoped

LAMBDAS = 16


def kinked_excess(trial: Trial, span: float, bits: float, *, by_class: bool = False, peek: bool = False) -> float:
    """The truth minus the bound of the chosen model over a base that sees the last token only.

    With factors on the gap and on the messages' bits. With `by_class` a token's weight is known from the last token, or
    with `peek` from the token itself.
    """
    kink, own = Kink(0.5, 1.0), np.array(ALPHAS if by_class else ALPHAS[1:])
    classes = trial.context % 2 if by_class else np.zeros_like(trial.context)
    seen = (trial.error > 0).astype(np.int64) if peek else classes
    base_prediction = np.where(trial.context % 2 == 1, 0.75, 0.25)
    with np.errstate(divide="ignore"):
        ones, zeros = (
            [-np.log2(p if token else 1.0 - p) for p in (base_prediction, trial.prediction)] for token in (1, 0)
        )
    one_token = np.isclose(trial.nll_bits, 0.0) == (trial.prediction > 0.5)
    streams = [np.where(one_token, one, zero) for one, zero in zip(ones, zeros, strict=True)]
    totals = [budget(bits * 4, DELTA / 2, 1), budget(bits * (4 + trial.message_bits), DELTA / 2, 1)]
    part, rest = kinked_links(streams, (ALPHAS[0], own[seen]), VOCABULARY, kink)
    ends = [kinked_ceilings((ALPHAS[0], alpha), VOCABULARY, kink) for alpha in own.tolist()]
    shortest = min(end for _, end in ends)
    centre = np.array([end - shortest for _, end in ends])[seen]  # by how much a class's range is longer
    result = bound_telescoped([part, rest - centre], [ends[0][0], shortest], totals, lambdas=LAMBDAS)
    truth = sum(
        float(np.mean(weight * np.add(*kinked_links(each, (ALPHAS[0], own[classes]), VOCABULARY, kink))))
        for each, weight in ((ones, trial.chance), (zeros, 1.0 - trial.chance))
    )
    return truth - result.empirical - float(centre.mean()) - span * result.gap
