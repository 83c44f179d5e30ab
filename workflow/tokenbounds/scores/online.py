"""Scoring with an online reference: one pass over the corpus in its order."""

from __future__ import annotations

import numpy as np

from tokenbounds.models.online.card import OnlineCard
from tokenbounds.models.online.mixing import ByteMixer
from tokenbounds.models.online.ngrams import Ngrams
from tokenbounds.scores.scorer import EVERYTHING, Float32Array, Losses
from tokenbounds.scores.windows import Group, TokenReader


def start_predictor(card: OnlineCard) -> ByteMixer | Ngrams:
    """The empty predictor that a card names."""
    if card.order is None:
        return ByteMixer(card.table_bits)
    return Ngrams(card.vocabulary_size, card.order, card.table_bits)


class OnlineScorer:
    """Scores with an online reference: the corpus in its order, from which the planned tokens are picked.

    Every document before a planned one is read too, because the reference learns from all of them. To go back, it
    starts again. All it knows about ranks is that at most 1 / p tokens can have a probability of p or more, so the rank
    stored is min(V, floor(1 / p)): an upper bound, which makes every share of errors an upper bound too.
    """

    longest_window: int | None = None
    order: int | None = EVERYTHING
    device_kind = "cpu"
    alphas: tuple[float, ...] = ()
    entropies = False
    original_sha256 = ""
    centre_order = 0

    def __init__(self, card: OnlineCard, corpus: TokenReader) -> None:
        self.vocabulary_size = card.vocabulary_size
        self._card = card
        self._corpus = corpus
        self._predictor = start_predictor(card)
        self._next = 0  # the first document that was not read
        self._losses: Float32Array = np.empty(0, np.float32)

    def score(self, group: Group) -> Losses:
        """Losses and upper bounds on ranks in plan order."""
        parts = []
        for document, start, length in zip(group.document, group.start, group.length, strict=True):
            if document < self._next - 1:
                self._predictor, self._next = start_predictor(self._card), 0
            while self._next <= document:
                self._losses = self._predictor.losses(self._corpus.document(self._next))
                self._next += 1
            parts.append(self._losses[start : start + length])
        nll_bits = np.concatenate(parts)
        # A little more than the loss, which is rounded to float32: the bound must not fall below the rank.
        most = np.floor(np.exp2(nll_bits.astype(np.float64) * (1 + 1e-6) + 1e-6))
        return nll_bits, np.minimum(most, self.vocabulary_size).astype(np.int32)
