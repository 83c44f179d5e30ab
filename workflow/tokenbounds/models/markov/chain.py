"""Markov chains with back-off, scored like any model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from tokenbounds.errors import ModelError
from tokenbounds.models.markov.grams import MarkovCard, gram_codes
from tokenbounds.models.markov.tables import Table, distributions, find, suffix

_DENSE_CELLS = 1 << 24
_DENSE_CONTEXTS = 1 << 24
_BLOCK_CELLS = 1 << 22


class MarkovChain:
    """A back-off Markov chain.

    Parameters
    ----------
    card : MarkovCard
        Order, vocabulary size and start token.
    tables : sequence of Table
        A table for each order from 0; the context of order 0 is always present.
    """

    def __init__(self, card: MarkovCard, tables: Sequence[Table]) -> None:
        self.card = card
        self.order = card.order
        self.vocabulary_size = card.vocabulary_size
        self.start_id = card.start_id
        self.tables = list(tables)
        self._offsets = np.cumsum([0, *[len(table.contexts) for table in self.tables]])

    def distribution(self, context: np.ndarray) -> np.ndarray:
        """Conditional distribution after `order` tokens of context (int[order], oldest first): float64[V]."""
        codes = gram_codes(np.concatenate([context, [0]]), self.order, self.card)[-1:]
        return self._rows(self._states(codes // np.uint64(self.vocabulary_size)))[0]

    def score(self, tokens: np.ndarray, start_id: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Score one whole document.

        Parameters
        ----------
        tokens : int[n]
            Its tokens, each below the vocabulary size.
        start_id : int, optional
            What precedes the first token; the card's start token unless given.

        Returns
        -------
        nll_bits : float32[n]
            −log2 of each token's conditional probability.
        rank : int32[n]
            Number of tokens at least as probable as the true one, itself included: ties count against the chain.

        Raises
        ------
        ModelError
            If a token is outside the vocabulary.
        """
        nll_bits, rank, _ = self.predict(tokens, start_id)
        return nll_bits, rank

    def predict(self, tokens: np.ndarray, start_id: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `score`, and also the entropies of the predictions, float64[n], bits."""
        tokens = np.asarray(tokens)
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocabulary_size:
            raise ModelError(f"a token lies outside the vocabulary of {self.vocabulary_size} of the Markov chain.")
        start = self.start_id if start_id is None else start_id
        card = MarkovCard(self.order, self.vocabulary_size, start)
        codes = gram_codes(tokens, self.order, card)  # [n]
        contexts = codes // np.uint64(self.vocabulary_size)  # without the token itself
        if int(self._offsets[-1]) * self.vocabulary_size > _DENSE_CELLS:
            return self._score_sparsely(self._states(contexts), tokens.astype(np.int64))
        nll_bits, rank, entropy = self._dense
        known = self._state_of_context
        states = self._states(contexts) if known is None else known[contexts]
        cells = states.astype(np.int64) * self.vocabulary_size + tokens  # places in the flat tables [states · V]
        return nll_bits[cells], rank[cells], entropy[states]

    def _states(self, contexts: np.ndarray) -> np.ndarray:
        """Number the longest suffix of each context that has a table: int64[n]."""
        # A suffix is in a table only if the shorter one is: one that is missing at some depth is not looked up again.
        states = np.zeros(len(contexts), dtype=np.int64)
        pending = np.arange(len(contexts))
        for depth in range(1, self.order + 1):
            codes = suffix(contexts[pending], depth, self.vocabulary_size)
            places, known = find(self.tables[depth].contexts, codes)
            pending, places = pending[known], places[known]
            states[pending] = self._offsets[depth] + places
        return states

    def _rows(self, states: np.ndarray) -> np.ndarray:
        """Distributions of states: float64[n, V]."""
        depths = np.searchsorted(self._offsets, states, side="right") - 1
        result = np.empty((len(states), self.vocabulary_size))
        for depth in np.unique(depths):
            chosen = np.flatnonzero(depths == depth)
            places = states[chosen] - self._offsets[depth]
            result[chosen] = distributions(self.tables, int(depth), places, self.vocabulary_size)
        return result

    @cached_property
    def _dense(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Loss in bits float32 and rank int32 of every token in every state, flat; entropy in bits of every state."""
        states, size = int(self._offsets[-1]), self.vocabulary_size
        nll_bits = np.empty((states, size), dtype=np.float32)
        rank = np.empty((states, size), dtype=np.int32)
        entropy = np.empty(states)
        block = max(1, _BLOCK_CELLS // size)
        for start in range(0, states, block):
            rows = self._rows(np.arange(start, min(start + block, states)))
            costs = -np.log2(rows)
            nll_bits[start : start + block] = costs
            rank[start : start + block] = _ranks(rows)
            entropy[start : start + block] = np.einsum("ij,ij->i", rows, costs)
        return nll_bits.reshape(-1), rank.reshape(-1), entropy

    @cached_property
    def _state_of_context(self) -> np.ndarray | None:
        """State of every possible context, if there are few enough: int32[V^order]."""
        number = self.vocabulary_size**self.order
        if number > _DENSE_CONTEXTS:
            return None
        parts = [
            self._states(np.arange(start, min(start + _BLOCK_CELLS, number), dtype=np.uint64)).astype(np.int32)
            for start in range(0, number, _BLOCK_CELLS)
        ]
        return np.concatenate(parts)

    def _score_sparsely(self, states: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `predict`, where the table of all states would be too large: a few states' distributions at a time."""
        size = self.vocabulary_size
        # Each distinct (state, token) once. Sorted, they come state by state, so each state's distribution is also
        # formed once.
        pairs, again = np.unique(states * size + tokens, return_inverse=True)
        nll_bits = np.empty(len(pairs), dtype=np.float32)
        rank = np.empty(len(pairs), dtype=np.int32)
        entropy = np.empty(len(pairs))
        distinct, first = np.unique(pairs // size, return_index=True)
        bounds = np.append(first, len(pairs))
        block = max(1, _BLOCK_CELLS // size)
        for start in range(0, len(distinct), block):
            rows = self._rows(distinct[start : start + block])
            entropies = -np.einsum("ij,ij->i", rows, np.log2(rows))
            for index, row in enumerate(rows, start=start):
                part = slice(bounds[index], bounds[index + 1])
                probabilities = row[pairs[part] % size]  # of the tokens that followed this state
                nll_bits[part] = -np.log2(probabilities)
                rank[part] = [np.count_nonzero(row >= value) for value in probabilities]
                entropy[part] = entropies[index - start]
        return nll_bits[again], rank[again], entropy[again]


def _ranks(rows: np.ndarray) -> np.ndarray:
    """Number of entries of each row at least as large as each of its entries: int64[n, V]."""
    ascending = np.argsort(rows, axis=1, kind="stable")
    values = np.take_along_axis(rows, ascending, axis=1)
    # Equal values share the position of the first of them, so that ties count all members.
    fresh = np.ones(rows.shape, dtype=bool)
    fresh[:, 1:] = values[:, 1:] != values[:, :-1]
    first = np.maximum.accumulate(np.where(fresh, np.arange(rows.shape[1]), 0), axis=1)
    ranks = np.empty(rows.shape, dtype=np.int64)
    np.put_along_axis(ranks, ascending, rows.shape[1] - first, axis=1)
    return ranks
