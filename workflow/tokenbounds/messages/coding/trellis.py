"""The state machine of trellis quantization: which half of a fine grid each value of a sequence may choose from.

Grid points are integers m, in steps. In each state only the even or only the odd ones are allowed; the code of m is k =
(m − c) / 2 with c = 0 or 1, and its parity drives the machine. The machine is that of Ungerboeck's codes for amplitude
modulation, as a systematic encoder with feedback. A decoder runs it on integers alone; the best path through it is left
to the encoder (`compression.posttraining.viterbi`).

References
----------
G. Ungerboeck, "Channel coding with multilevel/phase signals", 1982, table I. M. Marcellin and T. Fischer, "Trellis
coded quantization", 1990.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

_PARITY_CHECKS = {8: (0o13, 0o04), 32: (0o45, 0o10)}
STATES = tuple(_PARITY_CHECKS)


class Trellis(NamedTuple):
    """A state machine driven by the parities of codes.

    Attributes
    ----------
    following : int64 array [states, 2]
        The next state, by the parity of the code.
    odd : int64 array [states]
        1 where the odd grid points are allowed, 0 where the even ones are.
    """

    following: np.ndarray
    odd: np.ndarray


@lru_cache(maxsize=4)
def trellis(states: int) -> Trellis:
    """The machine with 8 or 32 states; a sequence starts in state 0.

    Registers r_1 … r_v hold the state, r_1 lowest. With parity checks h0, h1 and input b, register i takes
    r_(i+1) + h0_i · r_1 + h1_i · b modulo 2.
    """
    first, second = _PARITY_CHECKS[states]
    state, width = np.arange(states), states.bit_length() - 1
    odd = state & 1  # register r_1 says which grid
    following = np.zeros((states, 2), dtype=np.int64)
    for parity in (0, 1):
        for register in range(1, width + 1):
            bit = state >> register & 1
            bit = bit ^ (first >> register & 1) * odd ^ (second >> register & 1) * parity
            following[:, parity] |= bit << (register - 1)
    return Trellis(following, odd)


def codes_of(points: np.ndarray) -> np.ndarray:
    """Codes k of grid points m: half of m, rounded down."""
    return points >> 1


def grid_points(codes: np.ndarray, machine: Trellis) -> np.ndarray:
    """Grid points m = 2k + c of codes k.

    Parameters
    ----------
    codes : int array [length, sequences]
        One sequence per column, each from state 0.
    machine : Trellis

    Returns
    -------
    int64 array [length, sequences]
    """
    # All sequences (columns) advance together, one position (row) at a time: `states` is [sequences].
    points = 2 * codes.astype(np.int64)
    states = np.zeros(codes.shape[1], dtype=np.int64)
    for place, row in enumerate(codes):
        points[place] += machine.odd[states]
        states = machine.following[states, row & 1]
    return points
