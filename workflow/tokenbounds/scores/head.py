"""The output embedding in scoring: from hidden states to losses, a few positions at a time.

    states [n, H] ──head──▶ logits [rows, V] ──reduce──▶ loss, rank, entropy [rows]

How many rows go through the head at one time changes nothing but the speed, and the best number depends on the
processor, its caches, the vocabulary and what else runs: it is measured at the start, on the model's own head.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tokenbounds.scores.entropies import round_entropies
from tokenbounds.scores.plan_file import Int64Array
from tokenbounds.scores.reduction import reduce_logits

_log = logging.getLogger(__name__)

# Rows that are tried, the usual number first; and the most logits that may exist at one time.
_TRIED = {"cpu": (128, 64, 256, 512), "cuda": (2048, 512, 8192)}
_MOST_LOGITS = 1 << 28
# Rounds of the measurement, all numbers in each; those after the first two are left out once they have taken this long.
_ROUNDS, _SECONDS = 5, 1.0
# Another number must be so much faster than the usual one.
_WORTHWHILE = 0.97

Scored = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]
"""Losses in bits, ranks, and rounded entropies in bits, each [n]."""


class ScoringHead:
    """A model's output embedding, applied to a few positions at a time.

    Parameters
    ----------
    module
        From states [rows, H] to logits [rows, V].
    device
        Where it computes.
    rows
        Positions whose logits exist at one time; None chooses by measuring, on the first states that are many enough.
    """

    def __init__(self, module: Callable[[torch.Tensor], torch.Tensor], device: torch.device, rows: int | None) -> None:
        self._module, self._device, self._rows = module, device, rows
        self._buffer = torch.empty(0)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [n, V] of states [n, H], in the model's dtype; they are overwritten by the next ones."""
        module: Any = self._module
        # A layer of any other kind, or one that is hooked, does more than a product.
        if type(module) is not nn.Linear or module.bias is not None or "forward" in vars(module):
            logits: torch.Tensor = module(states)
            return logits
        size = len(states) * module.out_features
        if self._buffer.numel() < size or self._buffer.dtype != states.dtype:
            # The same memory each time: new pages would cost as much as all that is computed from the logits.
            self._buffer = torch.empty(size, dtype=states.dtype, device=states.device)
        return torch.mm(states, module.weight.t(), out=self._buffer[:size].view(len(states), -1))

    def score(self, states: torch.Tensor, targets: Int64Array) -> Scored:
        """Losses in bits and ranks of targets [n], and rounded entropies in bits, from states [n, H]."""
        nll_nats, rank = np.empty(len(states), np.float32), np.empty(len(states), np.int32)
        entropy = np.empty(len(states), np.float32)
        parts = -(-len(states) // self._rows_for(states))
        # Parts of almost equal length: a short one at the end would be slow.
        ends = [len(states) * part // parts for part in range(parts + 1)] if parts else []
        for first, end in itertools.pairwise(ends):
            rows = slice(first, end)
            nll_nats[rows], rank[rows], entropy[rows] = self._reduce(self.logits(states[rows]), targets[rows])
        return nll_nats * np.float32(1 / math.log(2)), rank, round_entropies(entropy / math.log(2))

    def _reduce(self, logits: torch.Tensor, targets: Int64Array) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Losses in nats, ranks and entropies in nats, [rows] each, from logits [rows, V]."""
        logits = logits.float()
        if self._device.type == "cpu":
            return reduce_logits(logits.numpy(), targets, torch.get_num_threads())
        reduced = reduce_on_device(logits, torch.from_numpy(targets).to(self._device)[:, None])
        nll_nats, rank, entropy = (values.cpu().numpy() for values in reduced)
        return nll_nats, rank, entropy

    def _rows_for(self, states: torch.Tensor) -> int:
        """Rows to take at one time; the first call with states enough to measure decides."""
        if self._rows is not None:
            return self._rows
        tried = _TRIED["cpu" if self._device.type == "cpu" else "cuda"]
        if len(states) < 2 * tried[0]:
            return tried[0]
        vocabulary = self.logits(states[:1]).shape[-1]
        tried = tuple(rows for rows in tried if rows <= len(states) and rows * vocabulary <= _MOST_LOGITS)
        self._rows = self._measure(states, tried) if tried else max(1, _MOST_LOGITS // vocabulary)
        return self._rows

    def _measure(self, states: torch.Tensor, tried: tuple[int, ...]) -> int:
        """The fastest of several numbers of rows.

        Only those are compared whose logits are bit for bit those of the first, so that what is scored does not depend
        on what was fastest.
        """
        least = min(tried)
        expected = self.logits(states[: tried[0]])[:least].clone()
        tried = tuple(rows for rows in tried if torch.equal(self.logits(states[:rows])[:least], expected))
        targets = np.zeros(max(tried, default=0), dtype=np.int64)
        seconds = dict.fromkeys(tried, math.inf)  # per row, the best of all rounds: other work only slows down
        begun = time.perf_counter()
        for round_number in range(_ROUNDS):
            if round_number > 1 and time.perf_counter() - begun > _SECONDS:
                break
            for rows in tried:
                start = time.perf_counter()
                self._reduce(self.logits(states[:rows]), targets[:rows])
                seconds[rows] = min(seconds[rows], (time.perf_counter() - start) / rows)
        if len(tried) < 2:
            return max(tried, default=1)
        best = min(tried, key=lambda rows: seconds[rows])
        best = best if seconds[best] < _WORTHWHILE * seconds[tried[0]] else tried[0]
        measured = ", ".join(f"{rows}: {1e6 * seconds[rows]:.1f}" for rows in sorted(tried))
        _log.info("output embedding: %d rows at a time (µs per row, by rows at a time: %s)", best, measured)
        return best


def reduce_on_device(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `reduction.reduce_logits` computes, on any device: float32 [n], int32 [n], float32 [n].

    Parameters
    ----------
    logits
        float32 [n, V]; they are overwritten.
    targets
        int64 [n, 1].
    """
    target = logits.gather(1, targets)  # [n, 1]
    rank = torch.ge(logits, target).sum(dim=1, dtype=torch.int32)  # before the logits are overwritten
    largest = logits.amax(dim=1, keepdim=True)  # [n, 1]
    # A logit of -inf would make 0 x inf below.
    masses = torch.exp(logits.sub_(largest).clamp_(min=torch.finfo(logits.dtype).min))
    total = masses.sum(dim=1)  # [n]
    log_sum = total.log()
    entropy = log_sum - masses.mul_(logits).sum(dim=1) / total
    return log_sum + (largest - target)[:, 0], rank, entropy
