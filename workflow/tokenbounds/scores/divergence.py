"""What divergences in score files are: the constants that readers need, without a model.

The stored divergence is KL(original ‖ (1 - alpha) decoded + alpha / V) in bits, with an alpha that is the same in every
file, so that nothing is chosen with the data in view and nothing needs to be paid for it.
"""

from __future__ import annotations

from tokenbounds.bounds.smoothing import loss_ceiling

DIVERGENCE_ALPHA = 2.0**-16


def most_divergence(vocabulary_size: int) -> float:
    """Largest divergence over V tokens: log2(V / alpha), bits."""
    return float(loss_ceiling(DIVERGENCE_ALPHA, vocabulary_size))
