"""Context mixing over bytes: many contexts predict each bit, and a learned logistic mixture weighs them.

A byte is predicted bit by bit, highest first, so its probability is a product of eight. Each of several contexts (the
last 1 to 6 bytes, words, the column) keeps adaptive probabilities in a hashed table; a match model follows the longest
repetition of what was just seen. Their log-odds are mixed with weights that are trained after every bit (Mahoney,
"Adaptive weighing of context models for lossless data compression", 2005), and the result is corrected by tables of how
often such predictions came true.

Nothing is known beforehand, and nothing looks ahead: the prediction of a byte is a function of the bytes before it in
corpus order (docs/bounds.md, "Online references"). All arithmetic is on integers, so a verifier gets the same
probabilities, bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tokenbounds.compiled import compiled
from tokenbounds.errors import ModelError
from tokenbounds.models.online.card import FEWEST_TABLE_BITS, MOST_TABLE_BITS
from tokenbounds.models.online.tables import MOST_ODDS, bit_costs, rate_table, squash_table, stretch_table

# Contexts: the last 1 … 6 bytes; the word so far with the byte before; the word so far and the last one; the column
# with the last two bytes and the byte above.
CONTEXTS = 9
# Inputs of the mixer: log-odds and confidence of each context, the bits of a byte by themselves, match, no match.
INPUTS = 2 * CONTEXTS + 3
LINE = 16  # a line of a table: a check, then the 15 nodes of four bits
LEAST_MATCH = 6
LONGEST_MATCH = 400
MATCH_STATES = 64
COUNTS = 1023  # the low 10 bits of an entry count its visits, the high 22 are the probability of a 1

_compiled = compiled(nogil=True, error_model="numpy")

_HEAD_BITS = 20
_FIRST_WEIGHT = 65536 * 3 // 10
_LEARNING_RATE = 6

# Hashes are 64 bits wide, and so is every operation on them.
_SEED, _MULTIPLIER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


class _State(NamedTuple):
    """Everything that the predictor has learned."""

    entries: npt.NDArray[np.uint32]  # [contexts, 2^table bits]: lines of a check and 15 adaptive probabilities
    bits_alone: npt.NDArray[np.int64]  # [256]: probability of the next bit after the bits of this byte, 1/65536
    match_worth: npt.NDArray[np.int64]  # [match states, 2]: probability of a 1 when the match expects 0, or 1
    by_bits: npt.NDArray[np.int64]  # [256, inputs]: weights chosen by the bits of this byte, 1/65536
    by_match: npt.NDArray[np.int64]  # [7 x match states, inputs]: by the longest known context and the match
    by_byte: npt.NDArray[np.int64]  # [256 x 8, inputs]: by the last byte and the bit's place
    final_short: npt.NDArray[np.int32]  # [65536, 33]: what a mixed prediction was worth after one byte
    final_long: npt.NDArray[np.int32]  # [65536, 33]: and after three, hashed
    history: npt.NDArray[np.uint8]  # [2^history bits]: the last bytes, a ring
    heads: npt.NDArray[np.int64]  # [2^head bits]: where the bytes after each hashed context of 6 were last seen
    place: npt.NDArray[np.int64]  # [1]: number of bytes seen


class ByteMixer:
    """An online predictor of bytes.

    Parameters
    ----------
    table_bits
        log2 of the entries of each context's table; 9 tables of 4 bytes per entry.

    Raises
    ------
    ModelError
        If `table_bits` is out of range.
    """

    def __init__(self, table_bits: int = 22) -> None:
        if not FEWEST_TABLE_BITS <= table_bits <= MOST_TABLE_BITS:
            raise ModelError(f"tables of 2^{table_bits} entries; choose {FEWEST_TABLE_BITS} to {MOST_TABLE_BITS} bits.")
        # The final tables start as the identity: bins for log-odds -2047, -1919, … 2047.
        bins = squash_table()[np.clip(np.arange(33) * 128 - 1, 0, 2 * MOST_ODDS)]
        expected = np.arange(2, MATCH_STATES + 2, dtype=np.int64)
        self._state = _State(
            entries=np.zeros((CONTEXTS, 1 << table_bits), np.uint32),
            bits_alone=np.full(256, 1 << 15, np.int64),
            match_worth=np.stack([65536 // (expected + 1), 65535 - 65536 // (expected + 1)], axis=1),
            by_bits=np.full((256, INPUTS), _FIRST_WEIGHT, np.int64),
            by_match=np.full(((CONTEXTS - 2) * MATCH_STATES, INPUTS), _FIRST_WEIGHT, np.int64),
            by_byte=np.full((2048, INPUTS), _FIRST_WEIGHT, np.int64),
            final_short=np.tile(bins, (65536, 1)),
            final_long=np.tile(bins, (65536, 1)),
            history=np.zeros(1 << (table_bits + 2), np.uint8),
            heads=np.full(1 << _HEAD_BITS, -1, np.int64),
            place=np.zeros(1, np.int64),
        )
        self._tables = (squash_table(), stretch_table(), rate_table(), bit_costs())

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
        _follow(tokens, nll_bits, self._state, *self._tables)
        return nll_bits.astype(np.float32)


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


@_compiled
def _find_line(table: np.ndarray, context: Any) -> int:
    """Where the line of a context begins: its own, or the less used of two neighbours, cleared."""
    check = np.uint32((context >> np.uint64(48)) | np.uint64(0x10000))  # never 0: that is a line never used
    first = int(context & np.uint64(table.size // LINE - 1)) * LINE
    second = first ^ LINE
    if table[first] == check:
        return first
    if table[second] == check:
        return second
    line = second if (table[second + 1] & COUNTS) < (table[first + 1] & COUNTS) else first
    table[line] = check
    table[line + 1 : line + LINE] = np.uint32(1) << np.uint32(31)  # one half, never seen
    return line


@_compiled
def _follow(
    tokens: np.ndarray,
    nll_bits: np.ndarray,
    state: _State,
    squash: np.ndarray,
    stretch: np.ndarray,
    rates: np.ndarray,
    costs: np.ndarray,
) -> None:
    """Predict and learn `tokens` [n] uint8; write each one's bits to `nll_bits` [n] float64."""
    history, heads = state.history, state.heads
    ring = history.size - 1
    hashes = np.zeros(CONTEXTS, np.uint64)
    lines = np.zeros(CONTEXTS, np.int64)
    nodes = np.zeros(CONTEXTS, np.int64)
    inputs = np.zeros(INPUTS, np.int64)
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
            hashes[k] = _hash_context(k, recent, word, last_word, column, above)
        expected = int(history[match & ring]) + 256 if length > 0 else 0
        last = int(recent & np.uint64(255))
        after_three = int(((recent & np.uint64(0xFFFFFF)) * _SEED) >> np.uint64(48))
        bits = 1  # the bits of this byte so far, after a leading 1
        cost = 0.0
        for place_of_bit in range(8):
            if place_of_bit == 0 or place_of_bit == 4:  # a line holds four bits
                for k in range(CONTEXTS):
                    context = hashes[k]
                    if place_of_bit == 4:
                        context = _stir(context + np.uint64(bits))
                    lines[k] = _find_line(state.entries[k], context)
            low = place_of_bit & 3
            node = (1 << low) | (bits & ((1 << low) - 1))  # 1 … 15 within the line
            bit = (byte >> (7 - place_of_bit)) & 1

            # What each context knows: its log-odds, and the same on a probability scale by how often it was seen.
            longest = 0
            for k in range(CONTEXTS):
                nodes[k] = lines[k] + node
                entry = int(state.entries[k, nodes[k]])
                seen, probability = entry & COUNTS, entry >> 20  # 1/4096
                inputs[2 * k] = stretch[probability] if seen else 0
                inputs[2 * k + 1] = (probability - 2048) * min(seen, 30) // 24 if seen else 0
                if seen and k < 6:
                    longest = k + 1
            inputs[2 * CONTEXTS] = stretch[state.bits_alone[bits] >> 4]
            follows = length > 0 and (expected >> (8 - place_of_bit)) == bits
            predicted, matched = 0, 0
            if follows:
                predicted = (expected >> (7 - place_of_bit)) & 1
                matched = min(length if length < 32 else 32 + (length - 32) // 16, MATCH_STATES - 1)
            inputs[2 * CONTEXTS + 1] = stretch[state.match_worth[matched, predicted] >> 4] if follows else 0
            inputs[2 * CONTEXTS + 2] = 0 if follows else 256

            # Three mixtures by different choices of weights, averaged in log-odds.
            first, second, third = bits, longest * MATCH_STATES + matched, last * 8 + place_of_bit
            a, b, c = 0, 0, 0
            for k in range(INPUTS):
                a += state.by_bits[first, k] * inputs[k]
                b += state.by_match[second, k] * inputs[k]
                c += state.by_byte[third, k] * inputs[k]
            a = min(MOST_ODDS, max(-MOST_ODDS, a >> 16))
            b = min(MOST_ODDS, max(-MOST_ODDS, b >> 16))
            c = min(MOST_ODDS, max(-MOST_ODDS, c >> 16))
            odds = (a + b + c) // 3

            # How often such a prediction came true before, interpolated between 33 bins; half of the weight stays.
            position = (odds + 2048) * 32
            low_bin, share = position >> 12, position & 4095
            worth_short = state.final_short[bits | (last << 8)]  # [33]
            worth_long = state.final_long[after_three ^ ((bits * 257) & 0xFFFF)]  # [33]
            one = (worth_short[low_bin] * (4096 - share) + worth_short[low_bin + 1] * share) >> 12
            two = (worth_long[low_bin] * (4096 - share) + worth_long[low_bin + 1] * share) >> 12
            mixed = (2 * int(squash[odds + MOST_ODDS]) + one + two) >> 2
            mixed = min(65536 - 32, max(32, mixed))
            cost += costs[mixed if bit else 65536 - mixed]

            # Now the bit is known, and everything learns from it.
            target = bit * 65535
            miss_a = ((bit << 16) - squash[a + MOST_ODDS]) * _LEARNING_RATE
            miss_b = ((bit << 16) - squash[b + MOST_ODDS]) * _LEARNING_RATE
            miss_c = ((bit << 16) - squash[c + MOST_ODDS]) * _LEARNING_RATE
            for k in range(INPUTS):
                state.by_bits[first, k] += (inputs[k] * miss_a + (1 << 17)) >> 18
                state.by_match[second, k] += (inputs[k] * miss_b + (1 << 17)) >> 18
                state.by_byte[third, k] += (inputs[k] * miss_c + (1 << 17)) >> 18
            near = low_bin + (share >> 11)
            worth_short[near] += (target - worth_short[near]) >> 6
            worth_long[near] += (target - worth_long[near]) >> 6
            for k in range(CONTEXTS):
                entry = int(state.entries[k, nodes[k]])
                seen, probability = entry & COUNTS, entry >> 10
                probability += ((bit * ((1 << 22) - 1) - probability) * rates[seen]) >> 16
                seen += seen < (255 if k < 2 else 127)
                state.entries[k, nodes[k]] = np.uint32((probability << 10) | seen)
            state.bits_alone[bits] += (target - state.bits_alone[bits]) >> 6
            if follows:
                state.match_worth[matched, predicted] += (target - state.match_worth[matched, predicted]) >> 7
                if predicted != bit:
                    length = 0
            bits = (bits << 1) | bit
        nll_bits[index] = cost

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
