"""Context mixing over bytes: many contexts predict each bit, and a learned logistic mixture weighs them.

A byte is predicted bit by bit, highest first, so its probability is a product of eight. Each of several contexts (the
last 1 to 6 bytes, words, the column) keeps adaptive probabilities in a hashed table; a match model follows the longest
repetition of what was just seen. Their log-odds are mixed with weights that are trained after every bit (Mahoney,
"Adaptive weighing of context models for lossless data compression", 2005), and the result is corrected by tables of how
often such predictions came true.

Nothing is known beforehand, and nothing looks ahead: the prediction of a byte is a function of the bytes before it in
corpus order (docs/bounds.md, "Online references"). All arithmetic is on integers, so a verifier gets the same
probabilities, bit for bit.

Speed depends on memory: what a byte or its bits will need is fetched early. Where it is may depend on bits that are
still to be predicted, since every replay of a corpus has them; no number does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tokenbounds.compiled import compiled, prefetch
from tokenbounds.errors import ModelError
from tokenbounds.limits import check_memory
from tokenbounds.models.online.card import DEFAULT_ORDER, check_sizes
from tokenbounds.models.online.lines import aligned_zeros
from tokenbounds.models.online.logarithm import log2, log2_table
from tokenbounds.models.online.tables import MOST_ODDS, confidence_table, rate_table, squash_table, stretch_table

# Contexts: the last 1 … 6 bytes; the word so far with the byte before; the word so far and the last one; the column
# with the last two bytes and the byte above.
CONTEXTS = 9
# Inputs of the mixer: log-odds and confidence of each context, the bits of a byte by themselves, match, no match; and
# zeros, up to what a processor multiplies at once.
INPUTS = 32
LINE = 16  # a line of a table: a check, then the 15 nodes of four bits
BINS = 32  # of a final prediction: log-odds -2048 … 2048, one line of memory
LEAST_MATCH = 6
LONGEST_MATCH = 400
MATCH_STATES = 64
COUNTS = 1023  # the low 10 bits of an entry count its visits, the high 22 are the probability of a 1

_compiled = compiled(nogil=True, error_model="numpy")
_inlined = compiled(inline="always")

_HEAD_BITS = 20
_FIRST_WEIGHT = 65536 * 3 // 10
_LEARNING_RATE = 6

# Hashes are 64 bits wide, and so is every operation on them.
_SEED, _MULTIPLIER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_HALF, _TRAINED_BITS = np.int32(1 << 17), np.int32(18)  # a weight moves by input x miss / 2^18, to the nearest


class _State(NamedTuple):
    """Everything that the predictor has learned. Tables are flat: a row is found by the index of its first entry."""

    entries: npt.NDArray[np.uint32]  # [contexts x 2^table bits]: lines of a check and 15 adaptive probabilities
    bits_alone: npt.NDArray[np.int64]  # [256]: probability of the next bit after the bits of this byte, 1/65536
    match_worth: npt.NDArray[np.int64]  # [match states x 2]: probability of a 1 when the match expects 0, or 1
    by_bits: npt.NDArray[np.int32]  # [256 x inputs]: weights chosen by the bits of this byte, 1/65536
    by_match: npt.NDArray[np.int32]  # [7 x match states x inputs]: by the longest known context and the match
    by_byte: npt.NDArray[np.int32]  # [256 x 8 x inputs]: by the last byte and the bit's place
    final_short: npt.NDArray[np.uint16]  # [65536 x bins]: what a mixed prediction was worth after one byte
    final_long: npt.NDArray[np.uint16]  # [65536 x bins]: and after three, hashed
    history: npt.NDArray[np.uint8]  # [2^history bits]: the last bytes, a ring
    heads: npt.NDArray[np.int64]  # [2^head bits]: where the bytes after each hashed context of 6 were last seen
    place: npt.NDArray[np.int64]  # [1]: number of bytes seen
    inputs: npt.NDArray[np.int32]  # [inputs]: of the mixer, for the bit at hand; the last ones stay zero


class _Tables(NamedTuple):
    """What was computed once for all predictors: small, so that it stays in the nearest cache."""

    squash: npt.NDArray[np.uint16]  # [4095]
    stretch: npt.NDArray[np.int16]  # [4096]
    rates: npt.NDArray[np.int32]  # [256]
    confidence: npt.NDArray[np.int32]  # [256]
    log2: npt.NDArray[np.float64]  # [256]


class ByteMixer:
    """An online predictor of bytes.

    Parameters
    ----------
    table_bits
        log2 of the entries of each context's table; 9 tables of 4 bytes per entry.

    Raises
    ------
    ModelError
        If `table_bits` is out of range, or more than fits into memory.
    """

    def __init__(self, table_bits: int = 22) -> None:
        if fault := check_sizes(256, DEFAULT_ORDER, table_bits):
            raise ModelError(fault)
        # Four bytes per entry, and as much as one table for what was read.
        check_memory(4 * (CONTEXTS + 1) << table_bits, f"an online reference of {table_bits} table_bits", ModelError)
        expected = np.arange(2, MATCH_STATES + 2, dtype=np.int64)
        worth = np.stack([65536 // (expected + 1), 65535 - 65536 // (expected + 1)], axis=1)
        self._state = _State(
            entries=aligned_zeros(CONTEXTS << table_bits, np.uint32),
            bits_alone=np.full(256, 1 << 15, np.int64),
            match_worth=worth.ravel(),
            by_bits=_first_weights(256),
            by_match=_first_weights((CONTEXTS - 2) * MATCH_STATES),
            by_byte=_first_weights(2048),
            final_short=_first_bins(65536),
            final_long=_first_bins(65536),
            history=np.zeros(1 << (table_bits + 2), np.uint8),
            heads=np.full(1 << _HEAD_BITS, -1, np.int64),
            place=np.zeros(1, np.int64),
            inputs=np.zeros(INPUTS, np.int32),
        )
        self._tables = _Tables(squash_table(), stretch_table(), rate_table(), confidence_table(), log2_table())

    def losses(self, document: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Predict a document's bytes one after the other, learning from each; the next call continues from there.

        Parameters
        ----------
        document
            Bytes [n], integers from 0 to 255. Contexts start anew with each document; what was learned stays.

        Returns
        -------
        float32 [n], bits: -log2 of the probability that each byte was given.
        """
        tokens = np.ascontiguousarray(document, dtype=np.uint8)
        nll_bits = np.empty(tokens.size)
        _follow(tokens, nll_bits, self._state, self._tables)
        return nll_bits.astype(np.float32)


def _first_weights(rows: int) -> npt.NDArray[np.int32]:
    weights: npt.NDArray[np.int32] = aligned_zeros(rows * INPUTS, np.int32)
    weights[:] = _FIRST_WEIGHT
    return weights


def _first_bins(rows: int) -> npt.NDArray[np.uint16]:
    """Rows that start as the identity: bins for log-odds -2048, -1916, … 2048."""
    odds = np.clip(np.arange(BINS) * 2 * (MOST_ODDS + 1) // (BINS - 1) - 1, 0, 2 * MOST_ODDS)
    bins: npt.NDArray[np.uint16] = aligned_zeros(rows * BINS, np.uint16)
    bins.reshape(rows, BINS)[:] = squash_table()[odds]
    return bins


@_compiled
def _hash_context(which: int, recent: Any, word: Any, last_word: Any, column: int, above: int) -> Any:
    """A hash of one context; `recent` holds the last eight bytes, the newest lowest."""
    if which < 6:
        value = recent & ((np.uint64(1) << np.uint64(8 * (which + 1))) - np.uint64(1))
    elif which == 6:
        value = word ^ ((recent & np.uint64(255)) * _SEED)
    elif which == 7:
        value = word ^ (last_word * _SEED)
    else:
        value = np.uint64(above) | ((recent & np.uint64(0xFFFF)) << np.uint64(8)) | (np.uint64(column) << np.uint64(24))
    return _stir(value + np.uint64(which + 1) * _SEED)


@_compiled
def _stir(value: Any) -> Any:
    """Let every bit of a 64-bit value affect all others."""
    value = (value ^ (value >> np.uint64(32))) * _MULTIPLIER
    value = (value ^ (value >> np.uint64(29))) * _MULTIPLIER
    return value ^ (value >> np.uint64(32))


@_inlined
def _find_line(entries: np.ndarray, line: int, context: Any) -> int:
    """Where the line of a context begins: its own, or the less used of two neighbours, cleared."""
    check = np.uint32((context >> np.uint64(48)) | np.uint64(0x10000))  # never 0: that is a line never used
    if entries[line] != check:
        other = line ^ LINE
        if entries[other] == check:
            return other
        if (entries[other + 1] & COUNTS) < (entries[line + 1] & COUNTS):
            line = other
        entries[line] = check
        for node in range(1, LINE):
            entries[line + node] = np.uint32(1) << np.uint32(31)  # one half, never seen
    return line


# Indices are unsigned, so that they are not compared with zero, and the processor multiplies many weights at once.
@_inlined
def _mix(weights: np.ndarray, row: Any, inputs: np.ndarray) -> Any:
    """Log-odds of the inputs under a row of weights."""
    total: Any = 0
    for k in range(np.uint64(inputs.size)):
        total += np.int64(weights[row + k]) * np.int64(inputs[k])
    return min(MOST_ODDS, max(-MOST_ODDS, total >> 16))


@_inlined
def _train(weights: np.ndarray, row: Any, inputs: np.ndarray, miss: int) -> None:
    """Move a row of weights along its inputs; `miss` is the bit less its probability, 1/65536."""
    step = np.int32(miss * _LEARNING_RATE)  # below 2^19, and an input is below 2^11
    for k in range(np.uint64(inputs.size)):
        moved = (np.int32(np.int32(inputs[k] * step) + _HALF)) >> _TRAINED_BITS
        weights[row + k] = np.int32(weights[row + k] + moved)


@_inlined
def _row_of_bins(context: int, bits: int) -> Any:
    """Where the bins of a context [16 bits] and the bits of the byte so far begin."""
    return np.uint64((context ^ ((bits * 257) & 0xFFFF)) * BINS)


@_inlined
def _interpolate(bins: np.ndarray, bin_: Any, share: int) -> Any:
    """Between a bin and the next one, `share` / 4096 of the way."""
    return (np.int64(bins[bin_]) * (4096 - share) + np.int64(bins[bin_ + np.uint64(1)]) * share) >> 12


@_compiled
def _follow(tokens: np.ndarray, nll_bits: np.ndarray, state: _State, tables: _Tables) -> None:
    """Predict and learn `tokens` [n] uint8; write each one's bits to `nll_bits` [n] float64."""
    squash, stretch, rates, confidence = tables.squash, tables.stretch, tables.rates, tables.confidence
    entries, inputs, history, heads = state.entries, state.inputs, state.history, state.heads
    ring, size = history.size - 1, entries.size // CONTEXTS
    hashes = np.zeros((2, CONTEXTS), np.uint64)  # of the contexts of a byte's upper and lower four bits
    places = np.zeros((2, CONTEXTS), np.int64)  # of their lines, if these are there
    lines = np.zeros(CONTEXTS, np.int64)
    place = state.place[0]
    begin = place  # of the document
    recent: Any = np.uint64(0)
    word, last_word = np.uint64(0), np.uint64(0)
    this_line, line_above, above = place, place, 0
    match, length = (-1), 0
    for index in range(tokens.size):
        byte = int(tokens[index])
        column = min(place - this_line, 255)
        for k in range(CONTEXTS):
            hashes[0, k] = _hash_context(k, recent, word, last_word, column, above)
            hashes[1, k] = _stir(hashes[0, k] + np.uint64(16 | byte >> 4))
            for half in range(2):
                places[half, k] = k * size + int(hashes[half, k] & np.uint64(size // LINE - 1)) * LINE
                prefetch(entries, places[half, k])
                prefetch(entries, places[half, k] ^ LINE)
        expected = int(history[match & ring]) + 256 if length > 0 else 0
        last = int(recent & np.uint64(255))
        after_three = int(((recent & np.uint64(0xFFFFFF)) * _SEED) >> np.uint64(48))
        bits = 1  # the bits of this byte so far, after a leading 1
        probability_of_byte = 1.0  # times 2^16 for each bit
        for place_of_bit in range(8):
            if place_of_bit == 0 or place_of_bit == 4:  # a line holds four bits
                half = place_of_bit // 4
                for k in range(CONTEXTS):
                    lines[k] = _find_line(entries, places[half, k], hashes[half, k])
            low = place_of_bit & 3
            node = (1 << low) | (bits & ((1 << low) - 1))  # 1 … 15 within the line
            bit = (byte >> (7 - place_of_bit)) & 1
            next_bits = (bits << 1) | bit
            prefetch(state.final_short, _row_of_bins(last << 8, next_bits))
            prefetch(state.final_long, _row_of_bins(after_three, next_bits))

            # What each context knows: its log-odds, and the same on a probability scale by how often it was seen.
            longest = 0
            for k in range(CONTEXTS):
                entry = int(entries[lines[k] + node])
                seen, probability = entry & COUNTS, entry >> 20  # 1/4096
                inputs[2 * k] = stretch[probability] if seen else 0
                inputs[2 * k + 1] = ((probability - 2048) * confidence[seen]) >> 5
                if seen and k < 6:
                    longest = k + 1
            inputs[2 * CONTEXTS] = stretch[state.bits_alone[bits] >> 4]
            follows = length > 0 and (expected >> (8 - place_of_bit)) == bits
            predicted, matched = 0, 0
            if follows:
                predicted = (expected >> (7 - place_of_bit)) & 1
                matched = min(length if length < 32 else 32 + (length - 32) // 16, MATCH_STATES - 1)
            worth = 2 * matched + predicted
            inputs[2 * CONTEXTS + 1] = stretch[state.match_worth[worth] >> 4] if follows else 0
            inputs[2 * CONTEXTS + 2] = 0 if follows else 256

            # Three mixtures by different choices of weights, averaged in log-odds.
            first, second = np.uint64(bits * INPUTS), np.uint64((longest * MATCH_STATES + matched) * INPUTS)
            third = np.uint64((last * 8 + place_of_bit) * INPUTS)
            a = _mix(state.by_bits, first, inputs)
            b = _mix(state.by_match, second, inputs)
            c = _mix(state.by_byte, third, inputs)
            odds = (a + b + c) // 3

            # How often such a prediction came true before, interpolated between two bins; half of the weight stays.
            position = (odds + MOST_ODDS + 1) * (BINS - 1)
            bin_, share = np.uint64(position >> 12), position & 4095
            short, long = _row_of_bins(last << 8, bits) + bin_, _row_of_bins(after_three, bits) + bin_
            one, two = _interpolate(state.final_short, short, share), _interpolate(state.final_long, long, share)
            mixed = (2 * np.int64(squash[odds + MOST_ODDS]) + one + two) >> 2
            mixed = min(65536 - 32, max(32, mixed))
            probability_of_byte *= float(mixed if bit else 65536 - mixed)

            # Now the bit is known, and everything learns from it.
            whole, target, goal = bit << 16, bit * 65535, bit * ((1 << 22) - 1)
            _train(state.by_bits, first, inputs, whole - np.int64(squash[a + MOST_ODDS]))
            _train(state.by_match, second, inputs, whole - np.int64(squash[b + MOST_ODDS]))
            _train(state.by_byte, third, inputs, whole - np.int64(squash[c + MOST_ODDS]))
            near = np.uint64(share >> 11)
            state.final_short[short + near] += (target - np.int64(state.final_short[short + near])) >> 6
            state.final_long[long + near] += (target - np.int64(state.final_long[long + near])) >> 6
            for k in range(CONTEXTS):
                entry = int(entries[lines[k] + node])
                seen, probability = entry & COUNTS, entry >> 10
                probability += ((goal - probability) * rates[seen]) >> 16
                seen += seen < (255 if k < 2 else 127)
                entries[lines[k] + node] = np.uint32((probability << 10) | seen)
            state.bits_alone[bits] += (target - state.bits_alone[bits]) >> 6
            if follows:
                state.match_worth[worth] += (target - state.match_worth[worth]) >> 7
                if predicted != bit:
                    length = 0
            bits = next_bits
        nll_bits[index] = 128.0 - log2(probability_of_byte, tables.log2)

        # The byte is now part of the past.
        history[place & ring] = np.uint8(byte)
        place += 1
        recent = (recent << np.uint64(8)) | np.uint64(byte)
        letter = 97 <= (byte | 32) <= 122 or 48 <= byte <= 57 or byte == 95 or byte >= 128
        if letter:
            word = (word + np.uint64(byte + 1)) * _MULTIPLIER
        elif word != 0:
            last_word, word = word, np.uint64(0)
        if byte == 10:
            line_above, this_line = this_line, place
        over = line_above + (place - this_line)
        above = int(history[over & ring]) if over < this_line else 0
        if length > 0:
            match, length = match + 1, min(length + 1, LONGEST_MATCH)
        if place - begin >= LEAST_MATCH:
            head = int(((recent & np.uint64(0xFFFFFFFFFFFF)) * _SEED) >> np.uint64(64 - _HEAD_BITS))
            if length == 0:
                match = heads[head]
                if match >= 0:
                    oldest = max(0, place - ring)
                    while (
                        length < LONGEST_MATCH
                        and match - 1 - length >= oldest
                        and history[(match - 1 - length) & ring] == history[(place - 1 - length) & ring]
                    ):
                        length += 1
                    length = length if length >= LEAST_MATCH else 0
            heads[head] = place
    state.place[0] = place
