"""The rounding of `feedback` in torch, for several matrices at once: on a GPU, or as its twin on a processor.

Columns, panels and rules are those of `FeedbackTask.round`, in float64. Only sums are formed in another order (the
feedback, and costs along a trellis), so codes are the same unless two choices cost the same to within rounding, about
10^-12. Then either may be taken; the message holds what was taken, and what a report says about it follows from the
message's codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from tokenbounds.compression.posttraining.feedback import MAX_CODE, FeedbackTask
from tokenbounds.compression.posttraining.ldlq import PANEL
from tokenbounds.compression.posttraining.viterbi_on_device import DeviceViterbi
from tokenbounds.messages.coding.trellis import trellis
from tokenbounds.messages.formats.scaled import ScaledMatrix, steps_of

# (targets in steps [tasks, outputs], column) -> codes [tasks, outputs]
_Choice = Callable[[torch.Tensor, int], torch.Tensor]


def round_on_device(tasks: Sequence[FeedbackTask], device: torch.device) -> list[ScaledMatrix]:
    """Matrices of one shape and one rule, rounded as `FeedbackTask.round` does."""
    if not tasks:
        return []

    def stack(arrays: Sequence[np.ndarray], dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.stack([torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype) for array in arrays])

    weights = stack([task.weight for task in tasks]).mT.contiguous()  # [tasks, inputs, outputs]
    feedback = stack([task.factor.feedback for task in tasks])  # [tasks, inputs, inputs], upper triangular
    row_steps = stack([steps_of(task.row_exponents) for task in tasks])
    column_steps = stack([steps_of(task.column_exponents) for task in tasks])
    choose = _choice(tasks, stack)
    codes = torch.empty(weights.shape, dtype=torch.int32, device=device)
    targets, columns = weights.clone(), weights.shape[1]
    errors = torch.zeros_like(weights[:, :PANEL])  # of the columns of this panel
    for start in range(0, columns, PANEL):
        stop = min(start + PANEL, columns)
        for column in range(start, stop):
            done = column - start
            fed = feedback[:, None, start:column, column] @ errors[:, :done]  # [tasks, 1, outputs]
            units = row_steps * column_steps[:, column, None]
            wanted = (targets[:, column] + fed[:, 0]) / units
            found = choose(wanted.clamp(-MAX_CODE, MAX_CODE), column)
            codes[:, column] = found
            errors[:, done] = weights[:, column] - found * units
        # The panel's errors reach all later columns: [behind, panel] @ [panel, outputs].
        targets[:, stop:] += feedback[:, start:stop, stop:].mT @ errors[:, : stop - start]
    upright = codes.mT.contiguous().cpu().numpy()
    return [
        ScaledMatrix(own, task.row_exponents, task.column_exponents, task.states)
        for own, task in zip(upright, tasks, strict=True)
    ]


def _choice(tasks: Sequence[FeedbackTask], stack: Callable[..., torch.Tensor]) -> _Choice:
    rates = [task.rates for task in tasks if task.rates is not None]
    if not rates:
        return lambda wanted, column: wanted.round()
    lengths = stack([model.lengths for model in rates])  # [tasks, bands, magnitudes]
    weights = lengths.new_tensor([task.rate_weight for task in tasks])
    row_bands = stack([model.row_bands for model in rates], torch.int64)
    column_bands = stack([model.column_bands for model in rates], torch.int64)

    def bands(column: int) -> torch.Tensor:
        return (row_bands + column_bands[:, column, None]).clamp(0, lengths.shape[1] - 1)

    if states := tasks[0].states:
        search = DeviceViterbi(trellis(states), weights[:, None, None] * lengths, weights)
        return lambda wanted, column: search.points(wanted, bands(column))
    own = torch.arange(len(tasks), device=lengths.device)[:, None]
    return lambda wanted, column: _by_cost(wanted, lengths[own, bands(column)], weights[:, None])


def _by_cost(wanted: torch.Tensor, lengths: torch.Tensor, rate_weights: torch.Tensor) -> torch.Tensor:
    """As `rates.round_column`; code lengths are those of each position, [tasks, outputs, magnitudes]."""
    size, last = wanted.abs(), lengths.shape[-1] - 1
    nearest = size.round()
    best, least = torch.zeros_like(size), size * size + rate_weights * lengths[..., 0]
    for less in (2, 1, 0):
        magnitude = nearest - less
        beyond = (magnitude - last).clamp(min=0)
        bits = lengths.gather(-1, magnitude.clamp(0, last).long()[..., None])[..., 0] + 2 * torch.log2(beyond + 1)
        cost = (size - magnitude) ** 2 + rate_weights * bits
        better = (cost < least) & (magnitude >= 1)
        best, least = torch.where(better, magnitude, best), torch.where(better, cost, least)
    return torch.where(wanted > 0, best, -best)
