"""Adaptive n-grams over any vocabulary: counts of what followed the last few tokens, each backing off to a shorter one.

The reference sees the last `order` tokens of a document and nothing further back, so its losses go up and down with
those of models that see as much. A context's line of memory holds the tokens that followed it, seven at most, with
small counts; p_k(x) = (1 - e) n_k(x) / N_k + e p_(k-1)(x) in context k, from the empty one to the longest, where e is
learned for each length, count and number of followers from how often the shorter context was right. A token is counted
in the longest context that knew it and those beyond, as in prediction by partial matching with exclusion (Cleary &
Witten, "Data compression using adaptive coding and partial string matching", 1984; Moffat, 1990).

All is integer arithmetic, rounded down: probabilities are multiples of 2^-46 and add up to at most one, whatever was
read (docs/bounds.md, "Online references").
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tokenbounds.compiled import compiled, prefetch
from tokenbounds.errors import ModelError
from tokenbounds.limits import check_memory
from tokenbounds.models.online.card import DEFAULT_ORDER, check_sizes
from tokenbounds.models.online.lines import aligned_zeros
from tokenbounds.models.online.logarithm import log2, log2_table

LINE = 8  # entries of a line: a check, then seven followers
MOST_COUNT = 7  # a follower seen n times counts 2 n - 1; when one exceeds this, all of its line are halved
COUNTS = 255  # the low 8 bits of an entry are its count, the high 24 the token
MOST_TOTAL = 1 << 30  # of the empty context
AHEAD, RING = 4, 8  # lines are fetched for the token after next but two; the ring holds those on the way
ONE_BITS = 46  # probabilities are in units of 2^-46
TOTALS, FOLLOWERS = 32, 8  # classes of contexts that share an e

_compiled = compiled(nogil=True, error_model="numpy")
_inlined = compiled(inline="always")

_FLOOR_BITS = 12  # 2^-12 of a prediction is uniform
_EVEN, _LEAST, _MOST = 30000, 32, 65000  # e in units of 2^-16: at first, and its ends
_SEED, _MULTIPLIER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


class _State(NamedTuple):
    """Everything that the predictor has learned."""

    entries: npt.NDArray[np.uint32]  # [order x 2^table bits]: lines of a check and up to seven followers
    unigrams: npt.NDArray[np.int64]  # [V]: counts of the empty context
    total: npt.NDArray[np.int64]  # [1]: their sum
    escapes: npt.NDArray[np.int64]  # [(1 + order) x totals x followers]: e of each class of contexts, 1/65536


class Ngrams:
    """An online predictor of tokens from the last few.

    Parameters
    ----------
    vocabulary_size
        V, at most 2^20.
    order
        Length of the longest context, 1 to 8.
    table_bits
        log2 of the entries of each length's table; one table of 4 bytes per entry for each length.

    Raises
    ------
    ModelError
        If a number is out of range, or more than fits into memory.
    """

    def __init__(self, vocabulary_size: int = 256, order: int = DEFAULT_ORDER, table_bits: int = 22) -> None:
        if fault := check_sizes(vocabulary_size, order, table_bits):
            raise ModelError(fault)
        needed = (4 * order << table_bits) + 8 * vocabulary_size
        check_memory(needed, f"an online reference of {table_bits} table_bits", ModelError)
        self._order = order
        self._state = _State(
            entries=aligned_zeros(order << table_bits, np.uint32),
            unigrams=np.zeros(vocabulary_size, np.int64),
            total=np.zeros(1, np.int64),
            escapes=np.full((1 + order) * TOTALS * FOLLOWERS, _EVEN, np.int64),
        )
        self._log2 = log2_table()

    def losses(self, document: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Predict a document's tokens one after the other, learning from each; the next call continues from there.

        Parameters
        ----------
        document
            Tokens [n], integers from 0 to V - 1. Contexts start anew with each document; what was learned stays.

        Returns
        -------
        float32 [n], bits: -log2 of the probability that each token was given.

        Raises
        ------
        ModelError
            If a token is not in the vocabulary.
        """
        tokens = np.ascontiguousarray(document, dtype=np.int64)
        size = self._state.unigrams.size
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < size:
            raise ModelError(f"the text has tokens beyond the {size} of this reference. Name its vocabulary_size.")
        nll_bits = np.empty(tokens.size)
        _follow(tokens, 0, nll_bits, self._order, self._state, self._log2, np.empty((0, size)))
        return nll_bits.astype(np.float32)

    def predictions(self, document: npt.NDArray[np.int64], first: int, start: int, end: int) -> npt.NDArray[np.float64]:
        """Learn tokens `first` to `end` - 1 of a document, and keep the whole predictions from token `start` on.

        Parameters
        ----------
        document
            Tokens [n], integers from 0 to V - 1, contiguous. Those before `first` were learned already.
        first, start, end
            0 <= first <= start <= end <= n.

        Returns
        -------
        float64 [end - start, V]: of every token its probability, before it is known which one follows.
        """
        full = np.empty((end - start, self._state.unigrams.size))
        _follow(document[:end], first, np.empty(end - first), self._order, self._state, self._log2, full)
        return full


@_inlined
def _find_line(entries: np.ndarray, line: int, context: Any) -> int:
    """Where the line of a context begins: its own, or the less used of two neighbours, cleared."""
    check = np.uint32((context >> np.uint64(40)) | np.uint64(1))  # never 0: that is a line never used
    if entries[line] != check:
        other = line ^ LINE
        if entries[other] == check:
            return other
        mine, others = 0, 0
        for place in range(1, LINE):
            mine += entries[line + place] & COUNTS
            others += entries[other + place] & COUNTS
        line = other if others < mine else line
        entries[line] = check
        for place in range(1, LINE):
            entries[line + place] = 0
    return line


@_inlined
def _blend(escapes: np.ndarray, cell: int, own: int, shorter: int) -> Any:
    """(1 - e) own + e shorter, rounded down; and e learns how much of it the shorter context gave."""
    e = escapes[cell]
    back = (e * shorter) >> 16
    blended = (((65536 - e) * own) >> 16) + back
    if blended > 0:
        e += ((back << 16) // blended - e) >> 7
        escapes[cell] = min(_MOST, max(_LEAST, e))
    return blended


@_inlined
def _class_of(total: int) -> int:
    """Contexts with much the same total share a class: 0 … 31."""
    return total if total < 16 else min(16 + (total - 16) // 4, TOTALS - 1)


@_inlined
def _count(entries: np.ndarray, line: int, place: int, token: int) -> None:
    """Count a token in a line: once more at its place, or in the place of the least."""
    if place == 0:
        place = 1
        for other in range(2, LINE):
            if (entries[line + other] & COUNTS) < (entries[line + place] & COUNTS):
                place = other
        entries[line + place] = np.uint32((token << 8) | 1)
        return
    entries[line + place] += np.uint32(2)
    if (entries[line + place] & COUNTS) > MOST_COUNT:
        for other in range(1, LINE):
            entry = entries[line + other]
            entries[line + other] = np.uint32((entry & ~np.uint32(COUNTS)) | ((entry & np.uint32(COUNTS)) >> 1))


@_compiled
def _predict_all(
    index: int, order: int, lines: np.ndarray, hashes: np.ndarray, state: _State, units: np.ndarray
) -> None:
    """The prediction for token `index` as `units` [V] int64 of 2^-46 each: what `_follow` gives the true one, for all.

    Nothing is learned.
    """
    entries, unigrams = state.entries, state.unigrams
    units[:] = (1 << ONE_BITS) // units.size
    if state.total[0] > 0:
        e = state.escapes[math.frexp(float(state.total[0]))[1] * FOLLOWERS]
        for token in range(units.size):
            own = ((unigrams[token] << 33) // state.total[0]) << (ONE_BITS - 33)
            units[token] = (((65536 - e) * own) >> 16) + ((e * units[token]) >> 16)
    for k in range(min(order, index)):
        line = _find_line(entries, lines[k], hashes[k])
        total: Any = 0
        followers: Any = 0
        for other in range(1, LINE):
            count = np.int64(entries[line + other]) & COUNTS
            total += count
            followers += count > 0
        if total > 0:
            e = state.escapes[((1 + k) * TOTALS + _class_of(total)) * FOLLOWERS + followers]
            for token in range(units.size):
                units[token] = (e * units[token]) >> 16
            for other in range(1, LINE):
                entry = np.int64(entries[line + other])
                own = ((entry & COUNTS) << ONE_BITS) // total
                if own > 0:
                    units[entry >> 8] += ((65536 - e) * own) >> 16
    for token in range(units.size):
        units[token] = (units[token] * ((1 << _FLOOR_BITS) - 1)) >> _FLOOR_BITS
        units[token] += (1 << (ONE_BITS - _FLOOR_BITS)) // units.size


@_compiled
def _follow(
    tokens: np.ndarray,
    first: int,
    nll_bits: np.ndarray,
    order: int,
    state: _State,
    logarithms: np.ndarray,
    full: np.ndarray,
) -> None:
    """Predict and learn `tokens` [n] int64 from the `first` on; write each one's bits to `nll_bits` [n - first].

    The whole predictions for the last ones go to `full` [any number of them, V] float64.
    """
    entries, unigrams = state.entries, state.unigrams
    size, vocabulary_size = entries.size // order, unigrams.size
    hashes = np.zeros((RING, order), np.uint64)  # of each length of context, for the tokens ahead
    lines = np.zeros((RING, order), np.int64)  # where these begin
    places = np.zeros(order, np.int64)  # of the token within each line, 0 if it is not there
    units = np.zeros(full.shape[1] if len(full) else 0, np.int64)  # of a whole prediction
    for ahead in range(first, tokens.size + AHEAD):
        # Whoever replays a corpus has it, so lines can be fetched early; what they hold is read when their turn comes.
        if ahead < tokens.size:
            context: Any = np.uint64(0)
            for k in range(min(order, ahead)):
                context = (context + np.uint64(tokens[ahead - 1 - k] + 1)) * _SEED
                context = (context ^ (context >> np.uint64(32))) * _MULTIPLIER
                context = context ^ (context >> np.uint64(29))
                hashes[ahead & (RING - 1), k] = context
                lines[ahead & (RING - 1), k] = k * size + int(context & np.uint64(size // LINE - 1)) * LINE
                prefetch(entries, lines[ahead & (RING - 1), k])
        index = ahead - AHEAD
        if index < first:
            continue
        token = tokens[index]
        slot = index & (RING - 1)
        if index >= tokens.size - len(full):
            _predict_all(index, order, lines[slot], hashes[slot], state, units)
            full[index - tokens.size + len(full)] = units * 2.0**-ONE_BITS

        # The empty context, above the uniform distribution; then longer and longer ones.
        probability: Any = (1 << ONE_BITS) // vocabulary_size
        if state.total[0] > 0:
            own = ((unigrams[token] << 33) // state.total[0]) << (ONE_BITS - 33)
            reached = math.frexp(float(state.total[0]))[1]  # 1 … 31 binary digits
            probability = _blend(state.escapes, reached * FOLLOWERS, own, probability)
        longest = -1  # context that knew the token
        known = min(order, index)
        for k in range(known):
            line = _find_line(entries, lines[index & (RING - 1), k], hashes[index & (RING - 1), k])
            total: Any = 0
            followers: Any = 0
            place: Any = 0
            for other in range(1, LINE):
                entry = np.int64(entries[np.uint64(line) + np.uint64(other)])
                total += entry & COUNTS
                followers += (entry & COUNTS) > 0
                place = max(place, other * ((entry >> 8 == token) & (entry & COUNTS > 0)))
            count = np.int64(entries[np.uint64(line) + np.uint64(place)]) & COUNTS if place > 0 else 0
            lines[index & (RING - 1), k], places[k] = line, place
            if total > 0:
                cell = ((1 + k) * TOTALS + _class_of(total)) * FOLLOWERS + followers
                probability = _blend(state.escapes, cell, (count << ONE_BITS) // total, probability)
            if place > 0:
                longest = k
        probability = (probability * ((1 << _FLOOR_BITS) - 1)) >> _FLOOR_BITS
        probability += (1 << (ONE_BITS - _FLOOR_BITS)) // vocabulary_size
        nll_bits[index - first] = ONE_BITS - log2(float(probability), logarithms)

        for k in range(max(longest, 0), known):
            _count(entries, lines[index & (RING - 1), k], places[k], token)
        if longest < 0:
            unigrams[token] += 1
            state.total[0] += 1
            if state.total[0] >= MOST_TOTAL:
                unigrams[:] = unigrams // 2
                state.total[0] = unigrams.sum()
