"""How far a decoded model strays from the original: divergence of their predictions, and whether first choices differ.

Both depend on what precedes a token and not on the token itself, so their averages over a corpus that was scored whole
need no bound (docs/bounds.md, "Faithfulness").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenbounds.errors import ScoreError
from tokenbounds.scores.divergence import DIVERGENCE_ALPHA
from tokenbounds.scores.neural import Batch, NeuralScorer
from tokenbounds.scores.plan_file import Int64Array
from tokenbounds.scores.scorer import ScoringOptions

_ROWS, _ELEMENTS = 128, 1 << 23  # positions, and their logits, of each model that exist at one time


@dataclass(frozen=True)
class Original:
    """The model from which a message was made, as `NeuralScorer` takes models, and its hash (`models.identity`)."""

    model: Any
    sha256: str


class ComparingScorer(NeuralScorer):
    """A `NeuralScorer` that also compares each prediction with the original's, on the same windows.

    Parameters
    ----------
    model, start_id, options
        As for `NeuralScorer`; both models are run with the same options.
    original
        What the predictions are compared with; moved to the device and cast in place.

    Raises
    ------
    ScoreError
        If one of the models cannot be scored, or they predict different numbers of tokens.
    """

    def __init__(self, model: Any, start_id: int, options: ScoringOptions, original: Original) -> None:
        super().__init__(model, start_id, options)
        self._original = NeuralScorer(original.model, start_id, options)
        self.most_inputs = max(self.most_inputs, self._original.most_inputs)
        self.original_sha256 = original.sha256
        if self._original.vocabulary_size != self.vocabulary_size:
            raise ScoreError(
                f"the decoded model predicts {self.vocabulary_size} tokens, and what it is compared with "
                f"{self._original.vocabulary_size}. Name the model that the message was made from."
            )

    def extra_columns(self, total: int) -> tuple[NDArray[Any], ...]:
        """Divergences in bits, and whether first choices changed."""
        return np.empty(total, np.float32), np.empty(total, np.bool_)

    def other_states(self, batches: Sequence[Batch]) -> Iterator[torch.Tensor]:
        """States of the original [n, H of the original] for each batch."""
        self._original.check_independence(max(int(batch.group.width.max()) for batch in batches))
        return self._original.batch_states(batches)

    def observe(
        self, states: torch.Tensor, originals: torch.Tensor | None, rows: Int64Array, extra: tuple[NDArray[Any], ...]
    ) -> None:
        """Compare the predictions of a batch: states of both models [n, H], and the rows where results belong [n]."""
        assert originals is not None
        all_divergences, all_changed = extra
        rows_at_once = max(1, min(_ROWS, _ELEMENTS // self.vocabulary_size))
        for first in range(0, len(states), rows_at_once):
            part = slice(first, first + rows_at_once)  # of logits of both models, [rows, V] each
            decoded, original = self.head.logits(states[part]), self._original.head.logits(originals[part])
            divergence, changed = compare_logits(original.float(), decoded.float())
            all_divergences[rows[part]] = divergence.cpu().numpy()
            all_changed[rows[part]] = changed.cpu().numpy()


def compare_logits(original: torch.Tensor, decoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divergences in bits, float32 [n], and whether first choices differ, bool [n], from logits float32 [n, V].

    The divergence is KL(original ‖ decoded), where the decoded model's prediction is mixed with a uniform one of weight
    `DIVERGENCE_ALPHA`, so that it is at most log2(V / alpha). Of equal logits the first is the choice.
    """
    least = torch.finfo(original.dtype).min  # a logit of -inf would make 0 x inf below
    logs = original.clamp(min=least).log_softmax(-1)
    mixed = decoded.softmax(-1).mul_(1 - DIVERGENCE_ALPHA).add_(DIVERGENCE_ALPHA / decoded.shape[-1])
    divergence = (logs.exp() * (logs - mixed.log_())).sum(-1) / math.log(2)
    return divergence.clamp_(min=0.0), original.argmax(-1) != decoded.argmax(-1)
