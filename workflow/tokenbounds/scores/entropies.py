"""Entropies of predictions, as score files hold them: in steps of 1/8 bit.

The entropy of the prediction for a token is a function of what precedes it, so it may serve as the token's centre
(docs/bounds.md, "Predictable centres"), and so may whatever it is rounded to. Rounding costs a centre next to nothing,
keeps score files small, and leaves few distinct values, so that averages need one pass.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

ENTROPY_STEP_BITS = 0.125


def round_entropies(entropy_bits: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Entropies [n], bits, to the nearest step, as float32 [n]; what rounding made negative becomes zero."""
    steps = np.rint(np.asarray(entropy_bits, dtype=np.float64) / ENTROPY_STEP_BITS)
    return (np.maximum(steps, 0.0) * ENTROPY_STEP_BITS).astype(np.float32)


def most_entropy(vocabulary_size: int) -> float:
    """Largest rounded entropy of a prediction over V tokens, bits."""
    return (entropy_levels(vocabulary_size) - 1) * ENTROPY_STEP_BITS


def entropy_levels(vocabulary_size: int) -> int:
    """How many values an entropy of a prediction over V tokens may have: 0, 1/8, … up to log2 V, rounded up."""
    return math.ceil(math.log2(vocabulary_size) / ENTROPY_STEP_BITS) + 1
