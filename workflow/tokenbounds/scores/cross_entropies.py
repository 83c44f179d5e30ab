"""What a network is expected to lose at each token by the prediction of online n-grams: cross-entropies, for centres.

Adaptive n-grams that have read the corpus so far (`models.online.ngrams`) know more of the next token than a network
that must be paid for. With q their prediction and pi the network's, smoothed, the column `cross_entropy_bits` is

    sum_x w(x) (-log2 pi(x)),   w(x) proportional to q(x) pi(x)^(1/4),

rounded and cut as entropies are. All of it is a function of what precedes the token (docs/bounds.md, "Cross-entropies
as centres"). The corpus is read in its order, as by any online reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenbounds.config.certificates import LARGEST_CENTRED_VOCABULARY
from tokenbounds.errors import ScoreError
from tokenbounds.limits import check_memory
from tokenbounds.models.online.ngrams import Ngrams
from tokenbounds.scores.centres import CENTRE_ALPHA, CENTRE_TILT, centre_reference
from tokenbounds.scores.entropies import most_entropy, round_entropies
from tokenbounds.scores.neural import Batch, NeuralScorer
from tokenbounds.scores.plan_file import Int64Array
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.windows import Group, TokenReader

_ROWS = 4096  # positions whose logits exist at one time, of a vocabulary that is small


class Replay:
    """The predictions of n-grams at planned tokens, while they read the corpus in its order.

    Going back means to start again.
    """

    def __init__(self, corpus: TokenReader, vocabulary_size: int, order: int) -> None:
        self._corpus, self._vocabulary_size = corpus, vocabulary_size
        self._card = centre_reference(vocabulary_size, order)
        self._start()

    def _start(self) -> None:
        self._predictor = Ngrams(self._card.vocabulary_size, self._card.order or 0, self._card.table_bits)
        self._document, self._position = -1, 0  # what was read: all before this position of this document
        self._tokens: Int64Array = np.empty(0, np.int64)

    def predictions(self, group: Group) -> NDArray[np.float32]:
        """For each scored token of a group, in plan order, the probability of every token: float32 [n, V]."""
        total = int(group.length.sum())
        check_memory(4 * total * self._vocabulary_size, "the predictions of the n-grams of centre_order", ScoreError)
        found = np.empty((total, self._vocabulary_size), np.float32)
        row = 0
        for document, start, length in zip(group.document, group.start, group.length, strict=True):
            self._move(int(document), int(start))
            end = int(start + length)
            found[row : row + length] = self._predictor.predictions(self._tokens, self._position, int(start), end)
            self._position, row = end, row + int(length)
        return found

    def _move(self, document: int, start: int) -> None:
        """Read all documents before one."""
        if document < self._document or (document == self._document and start < self._position):
            self._start()
        while self._document < document:
            size = len(self._tokens)
            self._predictor.predictions(self._tokens, self._position, size, size)  # the rest of a document
            self._document, self._position = self._document + 1, 0
            self._tokens = np.ascontiguousarray(self._corpus.document(self._document), dtype=np.int64)
            if self._tokens.size and int(self._tokens.max()) >= self._vocabulary_size:
                raise ScoreError(
                    f"document {self._document} holds a token that the model does not know, so the n-grams of its size "
                    "cannot read it. Leave out centre_order."
                )


class CrossEntropyScorer(NeuralScorer):
    """A `NeuralScorer` that also gives the cross-entropy of each of its predictions under that of n-grams.

    Parameters
    ----------
    model, start_id, options
        As for `NeuralScorer`.
    corpus
        Which the n-grams read in its order.
    order
        Of the n-grams.

    Raises
    ------
    ScoreError
        If the vocabulary is too large for whole predictions.
    """

    def __init__(self, model: Any, corpus: TokenReader, options: ScoringOptions, order: int) -> None:
        super().__init__(model, corpus.start_id, options)
        if self.vocabulary_size > LARGEST_CENTRED_VOCABULARY:
            raise ScoreError(
                f"the model predicts {self.vocabulary_size} tokens; centre_order is for at most "
                f"{LARGEST_CENTRED_VOCABULARY}. Leave it out."
            )
        self.centre_order = order
        self._replay = Replay(corpus, self.vocabulary_size, order)
        self._group: Group | None = None  # whose predictions are held: batches come group by group
        self._predictions: NDArray[np.float32] = np.empty((0, 0), np.float32)

    def extra_columns(self, total: int) -> tuple[NDArray[Any], ...]:
        """Cross-entropies in bits."""
        return (np.empty(total, np.float32),)

    def other_states(self, batches: Sequence[Batch]) -> Iterator[torch.Tensor]:
        """Predictions of the n-grams [n, V] for the scored positions of each batch."""
        for batch in batches:
            if self._group is not batch.group:
                self._group, self._predictions = batch.group, self._replay.predictions(batch.group)
            _, rows = batch.places()
            yield torch.from_numpy(self._predictions[rows])

    def observe(
        self, states: torch.Tensor, reference: torch.Tensor | None, rows: Int64Array, extra: tuple[NDArray[Any], ...]
    ) -> None:
        """Compute them for a batch: states [n, H], predictions [n, V], and the rows where results belong [n]."""
        assert reference is not None
        for first in range(0, len(states), _ROWS):
            part = slice(first, first + _ROWS)
            logits = self.head.logits(states[part]).float()
            rounded = round_entropies(cross_entropies(logits, reference[part].to(logits.device)).cpu().numpy())
            extra[0][rows[part]] = np.minimum(rounded, np.float32(most_entropy(self.vocabulary_size)))


def cross_entropies(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Expected losses float32 [n], bits, of predictions with `logits` [n, V] where `reference` [n, V] expects tokens.

    Both are float32. The loss is that of the prediction mixed with a uniform one of weight `CENTRE_ALPHA`.
    """
    mixed = logits.softmax(-1).mul_(1 - CENTRE_ALPHA).add_(CENTRE_ALPHA / logits.shape[-1])
    nats = mixed.log_().neg_()
    weights = nats.mul(-CENTRE_TILT).exp_().mul_(reference)
    return (weights * nats).sum(-1) / weights.sum(-1) / math.log(2)
