"""The inverse of the binary kl, which bounds on errors come close to, as a reference for tests."""

import numpy as np
from tokenbounds.bounds.betting import binary_kl


def inverse_kl(empirical, budget_nats):
    """Largest p with kl(empirical, p) <= `budget_nats`, rounded up, what rounding leaves in doubt included."""
    low, high = empirical, 1.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        # Both terms of the kl are exact to a few units in the last place, and their difference to a few of theirs.
        if binary_kl(empirical, middle) - 8 * np.finfo(np.float64).eps * (1.0 + budget_nats) <= budget_nats:
            low = middle
        else:
            high = middle
    return high
