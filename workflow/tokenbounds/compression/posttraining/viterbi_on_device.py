"""The search of `viterbi` in torch, for many sequences at once and without a loop over their positions.

A position is a matrix: what it costs to get from one state to another there. Under "take the cheapest way between"
instead of "add the products", such matrices multiply, and products may be grouped at will: so neighbours are
multiplied pair by pair, and pairs of pairs, in a number of steps that grows with the logarithm of the length. From the
least cost of reaching each state at each position follows the state that it was reached from, and following these maps
backwards is again a product that is grouped.

Costs along a path are added in another order than in `viterbi`, so two paths whose costs are equal to within rounding
(about 10^-12 of them) may be told apart differently. Whichever is taken, the machine allows it.

References
----------
S. Särkkä and Á. García-Fernández, "Temporal parallelization of Bayesian smoothers", 2021, of which Viterbi's algorithm
is a case.
"""

from __future__ import annotations

import numpy as np
import torch

from tokenbounds.compression.posttraining.viterbi import BITS_BEYOND, MAGNITUDES
from tokenbounds.messages.coding.trellis import Trellis

_PRODUCT_VALUES = 1 << 27  # values of a product's summands that are in memory at once, 1 GB


class DeviceViterbi:
    """Grid points of least squared error + weighted bits along sequences; see `viterbi.quantize_sequences`.

    Parameters
    ----------
    machine : Trellis
    prices : float64 tensor [sequences, bands, 64]
        Bits of a grid point by magnitude, times what a bit is worth; the device is theirs.
    rate_weights : float64 tensor [sequences]
        What a bit is worth, in squared steps.
    """

    def __init__(self, machine: Trellis, prices: torch.Tensor, rate_weights: torch.Tensor) -> None:
        device, states = prices.device, len(machine.odd)
        self._prices, self._beyond = prices, (BITS_BEYOND * rate_weights)[:, None, None]
        self._sequences = torch.arange(len(prices), device=device)[:, None]
        self._states = states

        def put(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values.astype(np.int64)).to(device)

        # Branches by 2 · state + parity, as in `viterbi`: which of the four costs each takes, and from where to where.
        self._branch_costs = put((2 * machine.odd[:, None] + np.arange(2)).reshape(-1))
        self._origins, self._ends = put(np.arange(2 * states) >> 1), put(machine.following.reshape(-1))
        # The two branches into each state, the one from the lower state first: [states, 2].
        self._into = put(np.argsort(machine.following.reshape(-1), kind="stable").reshape(states, 2))
        self._odd = put(machine.odd)
        self._grid, self._parity = put(np.array([0, 0, 1, 1])), put(np.array([0, 1, 0, 1]))

    def points(self, values: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
        """Grid points, int64 [sequences, length], of float64 values in steps and the bands that price them."""
        codes, branches = self._best_codes(values, self._prices[self._sequences, bands])  # [sequences, length, 4] both
        costs = branches[..., self._branch_costs]  # [sequences, length, branches]
        steps = costs.new_full((*values.shape, self._states, self._states), torch.inf)
        steps[..., self._origins, self._ends] = costs
        start = costs.new_full((len(values), self._states), torch.inf)
        start[:, 0] = 0.0  # every sequence starts in state 0
        reached = _prefixes(start, steps)  # [sequences, length, states]: least cost of a path that ends there
        before = torch.cat([start[:, None], reached[:, :-1]], dim=1)
        ways = before[..., self._origins[self._into]] + costs[..., self._into]  # [sequences, length, states, 2]
        taken = (ways[..., 1] < ways[..., 0]).long()
        branch = torch.where(taken.bool(), self._into[:, 1], self._into[:, 0])  # [sequences, length, states]
        last = reached[:, -1].argmin(dim=-1)  # [sequences]
        ends = self._trace(self._origins[branch], last)
        chosen = branch.gather(-1, ends[..., None])[..., 0]  # [sequences, length]
        code = codes.gather(-1, self._branch_costs[chosen][..., None])[..., 0]
        return 2 * code + self._odd[self._origins[chosen]]

    def _best_codes(self, values: torch.Tensor, prices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The cheapest code on each grid of each parity, and its cost; by 2 · grid + parity, as in `viterbi`."""
        wanted = values[..., None]
        below = 2 * ((wanted - self._grid - 2 * self._parity) / 4).floor().long() + self._parity
        near_zero = self._parity.expand_as(below)
        best, least = below, torch.full_like(wanted, torch.inf).expand(below.shape)
        for candidate in (below, below + 2, near_zero, near_zero - 2):
            point = 2 * candidate + self._grid
            inside = point.abs().clamp(max=MAGNITUDES - 1)
            cost = (wanted - point) ** 2 + prices.gather(-1, inside) + self._beyond * (point.abs() - inside)
            best, least = torch.where(cost < least, candidate, best), torch.minimum(cost, least)
        return best, least

    @staticmethod
    def _trace(origins: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """The state after each position, [sequences, length], of paths that end in `last`."""
        # After the loop, maps [place, state] lead from the last position to the state before `place`.
        maps, shift = origins.clone(), 1
        while shift < origins.shape[1]:
            maps[:, :-shift] = maps[:, :-shift].gather(-1, maps[:, shift:])
            shift *= 2
        before = maps.gather(-1, last[:, None, None].expand(-1, maps.shape[1], 1))[..., 0]
        return torch.cat([before[:, 1:], last[:, None]], dim=1)


def _prefixes(start: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Least costs [sequences, length, states] after each position, from `start` [sequences, states]."""
    length = steps.shape[1]
    if length == 1:
        return _product(start[:, None, None], steps)[:, :, 0]
    first, second = steps[:, 0::2], steps[:, 1::2]
    after_second = _prefixes(start, _product(first[:, : second.shape[1]], second))
    before_first = torch.cat([start[:, None], after_second], dim=1)[:, : first.shape[1]]
    costs = steps.new_empty(steps.shape[:3])
    costs[:, 0::2] = _product(before_first[:, :, None], first)[:, :, 0]
    costs[:, 1::2] = after_second
    return costs


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Least of left [..., i, k] + right [..., k, j] over k."""
    between = left.shape[-1]
    at_once = max(1, _PRODUCT_VALUES * between // (left.numel() * right.shape[-1]))
    least = left.new_tensor(torch.inf)
    for first in range(0, between, at_once):
        some = slice(first, first + at_once)
        least = torch.minimum(least, (left[..., :, some, None] + right[..., None, some, :]).amin(dim=-2))
    return least
