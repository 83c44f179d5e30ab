"""A bet with a predictable centre, on the sources of `bound_coverage.py`."""

from __future__ import annotations

from _coverage_sources import ALPHAS, VOCABULARY, Trial, budget
from tokenbounds.bounds.centred import bound_centred
from tokenbounds.bounds.smoothing import loss_ceiling, smooth

LAMBDAS = 16
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
