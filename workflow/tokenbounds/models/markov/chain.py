"""k-th order Markov chains as baselines: counted, coded into a message, decoded, and scored like any model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from tokenbounds.compression.markov_pruning import Pruner
from tokenbounds.config import MessageSpec
from tokenbounds.config.quantizers import CountsQuantizer
from tokenbounds.errors import MessageError, ModelError
from tokenbounds.messages.container import Message, Part, write_message
from tokenbounds.messages.formats.markov import MAX_LEVELS, Coder, decode_levels, encode_levels
from tokenbounds.models.markov.counts import MarkovCard, fit_markov, gram_codes, load_counts
from tokenbounds.models.markov.levels import Level, distributions, find, probability, suffix

__all__ = ["MarkovCard", "MarkovChain", "encode_counts", "fit_markov"]

_FIRST_PRICE = 20.0
_ROUNDS = 4
_PRICE_FACTOR = 0.7
_PASSES = 3
_CONFIDENCE_NATS = 3.0  # about ln(1/0.05): only steers the search for a good size
_DENSE_CELLS = 1 << 24
_DENSE_CONTEXTS = 1 << 24
_BLOCK_CELLS = 1 << 22


class MarkovChain:
    """A back-off Markov chain as its message describes it.

    Parameters
    ----------
    card : MarkovCard
        Order, vocabulary size and start token.
    levels : sequence of Level
        A table for each order from 0; the context of order 0 is always there.
    """

    def __init__(self, card: MarkovCard, levels: Sequence[Level]) -> None:
        self.card = card
        self.order = card.order
        self.vocabulary_size = card.vocabulary_size
        self.start_id = card.start_id
        self._levels = list(levels)
        self._offsets = np.cumsum([0, *[len(level.contexts) for level in self._levels]])

    @classmethod
    def from_message(cls, message: Message) -> MarkovChain:
        """Decode a chain.

        Raises
        ------
        MessageError
            If the message does not describe one.
        """
        header = message.header
        if set(header) != {"model", "quantizer", "coder"} or header["coder"] not in ("adaptive", "static"):
            raise MessageError("the header of a Markov chain's message needs model, quantizer and a known coder.")
        quantizer = header["quantizer"]
        if not isinstance(quantizer, dict) or set(quantizer) != {"kind", "levels"} or quantizer["kind"] != "counts":
            raise MessageError("the message of a Markov chain needs a quantizer of kind counts, with its levels.")
        levels = quantizer["levels"]
        if type(levels) is not int or not 2 <= levels <= MAX_LEVELS:
            raise MessageError(f"the quantizer's levels must be a whole number from 2 to {MAX_LEVELS}.")
        if len(message.parts) != 1:
            raise MessageError(f"the message of a Markov chain has one part, this one {len(message.parts)}.")
        try:
            card = MarkovCard.from_dict(header["model"])
        except ModelError as error:
            raise MessageError(str(error)) from error
        data = message.part("symbols")
        return cls(card, decode_levels(card, data, levels, cast(Literal["adaptive", "static"], header["coder"])))

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
            If a token lies outside the vocabulary.
        """
        tokens = np.asarray(tokens)
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocabulary_size:
            raise ModelError(f"a token lies outside the vocabulary of {self.vocabulary_size} of the Markov chain.")
        start = self.start_id if start_id is None else start_id
        card = MarkovCard(self.order, self.vocabulary_size, start)
        codes = gram_codes(tokens, self.order, card)
        contexts = codes // np.uint64(self.vocabulary_size)
        if int(self._offsets[-1]) * self.vocabulary_size > _DENSE_CELLS:
            return self._score_sparsely(self._states(contexts), tokens.astype(np.int64))
        nll_bits, rank = self._dense
        table = self._state_of_context
        states = self._states(contexts) if table is None else table[contexts]
        cells = states.astype(np.int64) * self.vocabulary_size + tokens
        return nll_bits[cells], rank[cells]

    def _states(self, contexts: np.ndarray) -> np.ndarray:
        """Number the longest suffix of each context that has a table: int64[n]."""
        states = np.zeros(len(contexts), dtype=np.int64)
        pending = np.arange(len(contexts))
        for depth in range(1, self.order + 1):
            codes = suffix(contexts[pending], depth, self.vocabulary_size)
            places, known = find(self._levels[depth].contexts, codes)
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
            result[chosen] = distributions(self._levels, int(depth), places, self.vocabulary_size)
        return result

    @cached_property
    def _dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Loss in bits float32 and rank int32 of every token in every state, flat."""
        states, size = int(self._offsets[-1]), self.vocabulary_size
        nll_bits = np.empty((states, size), dtype=np.float32)
        rank = np.empty((states, size), dtype=np.int32)
        block = max(1, _BLOCK_CELLS // size)
        for start in range(0, states, block):
            rows = self._rows(np.arange(start, min(start + block, states)))
            nll_bits[start : start + block] = -np.log2(rows)
            rank[start : start + block] = _ranks(rows)
        return nll_bits.reshape(-1), rank.reshape(-1)

    @cached_property
    def _state_of_context(self) -> np.ndarray | None:
        """State of every possible context, where there are few enough: int32[V^order]."""
        number = self.vocabulary_size**self.order
        if number > _DENSE_CONTEXTS:
            return None
        parts = [
            self._states(np.arange(start, min(start + _BLOCK_CELLS, number), dtype=np.uint64)).astype(np.int32)
            for start in range(0, number, _BLOCK_CELLS)
        ]
        return np.concatenate(parts)

    def _score_sparsely(self, states: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `score`, where the table of all states would be too large: a few states' distributions at a time."""
        size = self.vocabulary_size
        pairs, again = np.unique(states * size + tokens, return_inverse=True)
        nll_bits = np.empty(len(pairs), dtype=np.float32)
        rank = np.empty(len(pairs), dtype=np.int32)
        distinct, first = np.unique(pairs // size, return_index=True)
        bounds = np.append(first, len(pairs))
        block = max(1, _BLOCK_CELLS // size)
        for start in range(0, len(distinct), block):
            rows = self._rows(distinct[start : start + block])
            for index, row in enumerate(rows, start=start):
                part = slice(bounds[index], bounds[index + 1])
                found = row[pairs[part] % size]
                nll_bits[part] = -np.log2(found)
                rank[part] = [np.count_nonzero(row >= value) for value in found]
        return nll_bits[again], rank[again]


def _ranks(rows: np.ndarray) -> np.ndarray:
    """Number of entries of each row at least as large as each of its entries: int64[n, V]."""
    ascending = np.argsort(rows, axis=1, kind="stable")
    values = np.take_along_axis(rows, ascending, axis=1)
    fresh = np.ones(rows.shape, dtype=bool)
    fresh[:, 1:] = values[:, 1:] != values[:, :-1]
    first = np.maximum.accumulate(np.where(fresh, np.arange(rows.shape[1]), 0), axis=1)
    ranks = np.empty(rows.shape, dtype=np.int64)
    np.put_along_axis(ranks, ascending, rows.shape[1] - first, axis=1)
    return ranks


def encode_counts(directory: Path | str, spec: MessageSpec, out: Path | str) -> Message:
    """Code the chain counted in `directory` into the message `out`.

    The number of weights kept is the one that makes the certified loss on the counted corpus smallest: a few prices of
    a message bit are tried, each the marginal one of the size before. What is chosen is in the message, so nothing
    more is owed for the search.

    Raises
    ------
    ModelError
        If the counts cannot be read, or the quantizer is not for chains.
    """
    quantizer = spec.quantizer
    if not isinstance(quantizer, CountsQuantizer):
        raise ModelError(f"a Markov chain needs a quantizer of kind counts, not {quantizer.kind}.")
    card, grams, counts = load_counts(directory)
    data = _search(card, grams, counts, quantizer, spec.coder)
    header: dict[str, Any] = {
        "model": card.to_dict(),
        "quantizer": {"kind": "counts", "levels": quantizer.levels},
        "coder": spec.coder,
    }
    return write_message(out, header, [Part("symbols", data)])


def _search(card: MarkovCard, grams: np.ndarray, counts: np.ndarray, spec: CountsQuantizer, coder: Coder) -> bytes:
    """Code the chain at several prices of a bit and return the bytes that promise the best certificate.

    From the marginal price of a first attempt on, the price falls by a factor as long as that helps, then rises.
    """
    pruner = Pruner(card, grams, counts, spec.levels, spec.threshold)

    def attempt(price: float, passes: int) -> tuple[float, float, bytes]:
        data, levels = encode_levels(card, pruner.run(price, passes), spec.levels, coder)
        losses = -np.log2(probability(levels, card.order, grams, card.vocabulary_size))
        return *promised_loss(losses, counts, 8 * len(data), card.vocabulary_size), data

    first, marginal, data = attempt(_FIRST_PRICE, _PASSES)
    best, best_price = (first, data), _FIRST_PRICE
    price, factor = marginal, _PRICE_FACTOR
    for _ in range(_ROUNDS):
        value, _, data = attempt(price, 1)
        if value < best[0]:
            best, best_price = (value, data), price
        elif factor < 1:
            factor = 1 / factor
        else:
            break
        price = best_price * factor
    return best[1]


def promised_loss(losses: np.ndarray, counts: np.ndarray, size_bits: int, vocabulary_size: int) -> tuple[float, float]:
    """Estimate the certified loss in bits, and what one more message bit would cost in bits of the whole corpus.

    Freedman's form of the gap, sqrt(2 · variance · L/m) + range · L/(3m), stands in for the certificate's.
    """
    tokens = int(counts.sum())
    mean = float((losses * counts).sum()) / tokens
    variance = float(((losses - mean) ** 2 * counts).sum()) / tokens
    complexity = (size_bits * np.log(2) + _CONFIDENCE_NATS) / tokens
    spread = np.log2(vocabulary_size) / 3
    value = mean + np.sqrt(2 * variance * complexity) + spread * complexity
    marginal = np.log(2) * (np.sqrt(variance / (2 * complexity)) + spread)
    return float(value), float(max(marginal, 1.0))
