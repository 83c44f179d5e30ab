"""Entropy-coded trellis quantization: grid points of least squared error + weight · bits along whole sequences.

Neighbouring values of a sequence choose their grids jointly, by the Viterbi algorithm. A grid point is priced by its
magnitude: points of the even and of the odd grid have code lengths of their own, because a decoder knows the grid
before it reads the code. Sequences are independent: in a weight that is rounded column by column, a column is one.

References
----------
T. Fischer and M. Wang, "Entropy-constrained trellis-coded quantization", 1992. M. Marcellin, "On entropy-constrained
trellis coded quantization", 1994.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenbounds.compiled import compiled
from tokenbounds.messages.coding.trellis import Trellis

MAGNITUDES = 64  # greater ones are priced along a straight line
BITS_BEYOND = 1.0  # price of each further unit of magnitude
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}


def quantize_sequences(
    values: np.ndarray,
    machine: Trellis,
    lengths: np.ndarray,
    rate_weight: float,
    bands: np.ndarray | None = None,
) -> np.ndarray:
    """Grid points of least squared error + rate_weight · bits, over each whole sequence.

    Parameters
    ----------
    values : float array [length, sequences]
        In steps of the grid.
    machine : Trellis
    lengths : float array [bands, 64]
        Bits of a grid point by magnitude, its sign included.
    rate_weight : float
        Squared steps that a bit is worth: about 0.35 on the rate–distortion curve at two bits or more.
    bands : int array [length, sequences], optional
        Which row of `lengths` prices each value; the first, if left out.

    Returns
    -------
    int64 array [length, sequences]
        On the grids that the machine allows, from state 0. The cost is the least among points that enclose the value or
        are next to zero.
    """
    # One sequence at a time. `choices`: the four codes that branches may take at each position (2 grids × 2 parities).
    # `origins`: the branch by which the cheapest path reaches each state at each position. Backwards it is the answer.
    count, sequences = values.shape
    points = np.empty((count, sequences), dtype=np.int64)
    origins = np.empty((count, len(machine.odd)), dtype=np.uint8)
    choices = np.empty((count, 4), dtype=np.int64)
    prices = np.ascontiguousarray(rate_weight * lengths, dtype=np.float64)
    band = np.zeros(count, dtype=np.int64)
    for sequence in range(sequences):
        column = np.ascontiguousarray(values[:, sequence], dtype=np.float64)
        if bands is not None:
            band[:] = bands[:, sequence]
        last = _forward(column, prices, rate_weight * BITS_BEYOND, band, machine, origins, choices)
        _trace_back(last, machine.odd, origins, choices, points[:, sequence])
    return points


@compiled(**_OPTIONS)
def _best_point(value: float, base: int, prices: np.ndarray, beyond: float, residue: int) -> tuple[int, float]:
    """The cheapest point with this residue modulo 4: among the two that enclose the value and the two next to zero.

    `base` is the last multiple of 4 that is no greater than the value.
    """
    below = base + residue
    if below > value:
        below -= 4
    best, least = below, _cost(value, below, prices, beyond)
    for point in (below + 4, residue, residue - 4):
        cost = _cost(value, point, prices, beyond)
        if cost < least:
            best, least = point, cost
    return best, least


@compiled(**_OPTIONS)
def _cost(value: float, point: int, prices: np.ndarray, beyond: float) -> float:
    inside = min(abs(point), MAGNITUDES - 1)
    return (value - point) ** 2 + prices[inside] + beyond * (abs(point) - inside)


@compiled(**_OPTIONS)
def _forward(
    values: np.ndarray,
    prices: np.ndarray,
    beyond: float,
    bands: np.ndarray,
    machine: Trellis,
    origins: np.ndarray,
    choices: np.ndarray,
) -> int:
    """Viterbi's forward pass: fills origins (state and parity a path came from) and choices; returns the best end."""
    following, odd = machine.following, machine.odd
    costs, extended = np.full(odd.size, np.inf), np.empty(odd.size)  # [states]: least cost of a path that ends there
    branches = np.empty(4)  # cost of the best code by 2 · grid + parity
    costs[0] = 0.0  # every sequence starts in state 0
    # [states, 2]: the two branches, 2 · state + parity, that lead to each state.
    entries = np.argsort(following.reshape(-1), kind="mergesort").reshape(-1, 2)
    used = 2 * odd[entries.reshape(-1) >> 1].reshape(-1, 2) + (entries & 1)
    for place in range(values.size):
        value, own = values[place], prices[bands[place]]
        base = 4 * int(np.floor(value / 4))
        for branch in range(4):
            # Codes k of one parity on one grid are the points m = 2k + grid with m = 2 · parity + grid modulo 4.
            residue = 2 * (branch & 1) + (branch >> 1)
            point, branches[branch] = _best_point(value, base, own, beyond, residue)
            choices[place, branch] = point >> 1
        # Four branch costs serve all states: a state's grid and the code's parity say which.
        for reached in range(odd.size):
            first, second = entries[reached, 0], entries[reached, 1]
            cost = costs[first >> 1] + branches[used[reached, 0]]
            other = costs[second >> 1] + branches[used[reached, 1]]
            extended[reached] = min(cost, other)
            origins[place, reached] = second if other < cost else first
        costs, extended = extended, costs
    return int(np.argmin(costs))


@compiled(**_OPTIONS)
def _trace_back(last: int, odd: np.ndarray, origins: np.ndarray, choices: np.ndarray, points: np.ndarray) -> None:
    state = np.int64(last)
    for place in range(len(choices) - 1, -1, -1):
        origin = np.int64(origins[place, state])
        state = origin >> 1
        points[place] = 2 * choices[place, 2 * odd[state] + (origin & 1)] + odd[state]
