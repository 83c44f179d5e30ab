"""The adaptive coder's kernels: its model of symbols, its tables, and the range coder that both directions share.

All compiled functions are in this module: numba compiles a cached one again if its own file changes, but not if a
function that it inlines changes in another. Bytes depend on every number here.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tokenbounds.compiled import compiled

_UNARY = 14  # magnitudes up to this are coded in unary
_BINS = 2 + 2 * _UNARY  # decisions a symbol may need: zero?, sign, then "this magnitude?" for each sign
_DIRECT = 64 * 40  # mean magnitude, in 64ths, beyond which no unary part is coded
_EXPONENTS = 31
_TREE_BITS = 6  # leading mantissa bits of an escape with adaptive probabilities
_INPUTS = 5  # contexts that each predict a decision: none, row × column, neighbours, the two nearest, row and column
_INITIAL_WEIGHTS = (9830, 26214, 13107, 13107, 13107)  # in 65536ths: 0.15, 0.4, 0.2, 0.2, 0.2
_BANDS = 48  # of a quantized logarithm of an expected magnitude
_PAIRS = 24  # coarser bands, of the row and of the column apart
_CLIPPED = 5  # a neighbour counts as −2 … 2
# How many contexts each input distinguishes; the states of all inputs follow one another, `_BINS` per context.
_SLOTS = (1, _BANDS, _BANDS, _CLIPPED * _CLIPPED, _PAIRS * _PAIRS)
_ALL_SLOTS = sum(_SLOTS)
_STATE_BITS = 22
_HALF = 1 << (_STATE_BITS - 1)
_COUNT_BITS = 10
COUNTS = (1 << _COUNT_BITS) - 1  # the bits of a state that hold its count
_STRETCH_LIMIT = 2900  # 256 × the logit of 1 − 2^-16, rounded up
MARGIN_BYTES = 512  # one symbol never writes or reads more, apart from pending carries
LOW, RANGE, CACHE, PENDING, POSITION, DECODING, LIMIT = range(7)

# Without numba's reference counting (nothing here allocates) the coder is ten times as fast.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False, "nogil": True}
_compiled = compiled(**_OPTIONS)
_inlined = compiled(inline="always", **_OPTIONS)
_at = np.uintp  # an index that is never negative, so that compiled code need not look whether it counts from the end


class Stream(NamedTuple):
    """The range coder: its registers, and the bytes that it reads or writes."""

    registers: np.ndarray  # int64 [7]
    data: np.ndarray  # uint8


class Model(NamedTuple):
    """What the coder has learned: probabilities of decisions in each context, and weights of the contexts."""

    # uint32 [grids × inputs' slots × bins]: probability of a one, `_STATE_BITS` fractional bits, and below it how often
    # it was updated, up to `COUNTS`: one access to memory for both.
    states: np.ndarray
    weights: np.ndarray  # int64 [grids × bins, inputs], 16 fractional bits
    updates: np.ndarray  # int64 [grids × bins]
    escapes: np.ndarray  # int64 [4, exponents × (2^tree_bits + 1)], 16-bit probabilities
    bases: np.ndarray  # int64 [inputs + 1], first state of the present context of each input, first of the weights
    inputs: np.ndarray  # int64 [inputs], stretched probabilities of the present decision


class Tables(NamedTuple):
    """The format version's tables."""

    squash: np.ndarray  # int64: logit (8 fractional bits, shifted) → 16-bit probability
    stretch: np.ndarray  # int64 [65536]: 16-bit probability → logit
    rates: np.ndarray  # int64: count → update rate, 16 fractional bits
    trust: np.ndarray  # int64: count → weight of a young prediction, 8 fractional bits
    bands: np.ndarray  # int64 [4096]: magnitude in 64ths → quantized logarithm


class Plane(NamedTuple):
    """One array of symbols, and what is known of its rows and columns so far."""

    codes: np.ndarray  # int64 [rows × cols]
    columns: np.ndarray  # int64 [cols]: sum of magnitudes so far, in 64ths
    sums: np.ndarray  # int64 [3]: of this row, of all, number of all
    cols: int
    following: np.ndarray  # int64 [machine's states, 2]; without a trellis there is one state
    odd: np.ndarray  # int64 [machine's states]
    states: np.ndarray  # int64 [cols]: the machine's state in each column
    side: np.ndarray  # int64 [rows × cols]: magnitudes that the decoder knows beforehand; empty if there are none


@lru_cache(maxsize=1)
def coding_tables() -> Tables:
    """Tables of the format version, from exact or correctly rounded arithmetic."""
    with localcontext() as context:
        context.prec = 30
        logits = [Decimal(k) / 256 for k in range(-_STRETCH_LIMIT, _STRETCH_LIMIT + 1)]
        squash = np.array([int((65536 / (1 + (-x).exp())).to_integral_value()) for x in logits], dtype=np.int64)
    squash = np.clip(squash, 1, 65535)
    stretch = np.searchsorted(squash, np.arange(65536)).astype(np.int64) - _STRETCH_LIMIT
    stretch = np.clip(stretch, -_STRETCH_LIMIT, _STRETCH_LIMIT)
    counts = np.arange(COUNTS + 1, dtype=np.int64)
    rates = (65536 * 10) // (10 * counts + 16)
    trust = (256 * (2 * counts + 1)) // (2 * counts + 7)
    values = np.arange(4096, dtype=np.int64)
    lengths = np.array([int(value).bit_length() for value in values], dtype=np.int64)
    quarter = np.where(lengths >= 3, (values >> np.maximum(lengths - 3, 0)) & 3, values & 3)
    bands = np.minimum(np.where(lengths >= 3, 4 * (lengths - 2) + quarter, values), _BANDS - 1)
    return Tables(squash, stretch, rates, trust, bands)


def new_model(tables: Tables, grids: int) -> Model:
    """Initial probabilities, before anything is seen, for codes on one grid or on an even and an odd one."""
    states = np.full((_ALL_SLOTS, _BINS), _HALF, dtype=np.int64)
    counts = np.zeros((_ALL_SLOTS, _BINS), dtype=np.int64)
    # Before anything is seen, a magnitude expected to be E is geometric: it stops growing with probability 1 / (1 + E).
    means = np.searchsorted(tables.bands, np.arange(_BANDS))
    stops = (64 << _STATE_BITS) // (64 + means)
    by_band = slice(_SLOTS[0], _SLOTS[0] + _BANDS)
    for which in [0, *range(2, _BINS)]:
        states[by_band, which] = np.minimum(stops, (1 << _STATE_BITS) - (1 << 12))
        counts[by_band, which] = 4
    return Model(
        states=np.tile((states << _COUNT_BITS | counts).astype(np.uint32).reshape(-1), grids),
        weights=np.tile(np.array(_INITIAL_WEIGHTS, dtype=np.int64), (grids * _BINS, 1)),
        updates=np.zeros(grids * _BINS, dtype=np.int64),
        escapes=np.full((4, _EXPONENTS * ((1 << _TREE_BITS) + 1)), 32768, dtype=np.int64),
        bases=np.zeros(_INPUTS + 1, dtype=np.int64),
        inputs=np.zeros(_INPUTS, dtype=np.int64),
    )


@_compiled
def move_byte(stream: Stream) -> None:
    """Move eight bits out of (or into) the coder's registers, carrying where needed."""
    registers, data = stream.registers, stream.data
    registers[RANGE] <<= 8
    if registers[DECODING]:
        position = registers[POSITION]
        byte = data[position] if position < data.size else 0
        registers[LOW] = ((registers[LOW] << 8) | byte) & 0xFFFFFFFF
        registers[POSITION] = position + 1
        return
    # A byte goes out only once no carry can change it: 0xFF bytes wait, and turn to 0x00 if one comes.
    low = registers[LOW]
    if low < 0xFF000000 or low >= 1 << 32:
        carry = low >> 32
        data[registers[POSITION]] = (registers[CACHE] + carry) & 0xFF
        registers[POSITION] += 1
        while registers[PENDING] > 0:
            data[registers[POSITION]] = (0xFF + carry) & 0xFF
            registers[POSITION] += 1
            registers[PENDING] -= 1
        registers[CACHE] = (low >> 24) & 0xFF
    else:
        registers[PENDING] += 1
    registers[LOW] = (low & 0x00FFFFFF) << 8


@_inlined
def _code_bit(stream: Stream, probability: int, bit: int) -> int:
    """Encode `bit`, or decode and return it; `probability` of a one is in 65536ths."""
    registers = stream.registers
    bound = (registers[RANGE] * probability) >> 16
    if registers[DECODING]:
        bit = 1 if registers[LOW] < bound else 0
        if bit == 0:
            registers[LOW] -= bound
    elif bit == 0:
        registers[LOW] += bound
    registers[RANGE] = bound if bit else registers[RANGE] - bound
    while registers[RANGE] < 1 << 24:
        move_byte(stream)
    return bit


@_inlined
def _code_mixed(stream: Stream, model: Model, tables: Tables, which: int, bit: int) -> int:
    """Code decision `which` of a symbol with the mixed prediction of all contexts, then learn from it."""
    mixer = model.bases[_INPUTS] + which
    weights = model.weights[mixer]  # [inputs], a view: learning below writes into the model
    # Predict: the logit of the mix is the weighted sum of the contexts' logits, young contexts trusted less.
    total = 0
    for k in range(_INPUTS):
        state = np.int64(model.states[_at(model.bases[k] + which)])
        logit = tables.stretch[_at(state >> (_COUNT_BITS + _STATE_BITS - 16))] * tables.trust[_at(state & COUNTS)] >> 8
        model.inputs[k] = logit
        total += logit * weights[k]
    total = min(max(total >> 16, -_STRETCH_LIMIT), _STRETCH_LIMIT)
    probability = tables.squash[_at(total + _STRETCH_LIMIT)]
    bit = _code_bit(stream, probability, bit)
    # Learn the weights: a gradient step on the code length, whose rate falls from 34 to 10 as updates add up.
    seen = model.updates[mixer]
    error = ((bit << 16) - probability) * (10 if seen > 24 * 64 else 10 + 24 * 64 // (seen + 64))
    model.updates[mixer] = min(seen + 1, 1 << 20)
    target = bit << _STATE_BITS
    for k in range(_INPUTS):
        weights[k] += (model.inputs[k] * error + (1 << 19)) >> 20
        # Learn the context: its probability moves towards the bit by about one over the times it was seen.
        slot = _at(model.bases[k] + which)
        learned: Any = np.int64(model.states[slot])
        chance: Any = learned >> _COUNT_BITS
        count: Any = learned & COUNTS
        chance += ((target - chance) * tables.rates[_at(count)]) >> 16
        chance = min(max(chance, 64), (1 << _STATE_BITS) - 64)
        model.states[slot] = chance << _COUNT_BITS | min(count + 1, COUNTS)
    return bit


@_inlined
def _code_plain(stream: Stream, states: np.ndarray, slot: int, bit: int) -> int:
    """Code a bit of an escape with one adaptive probability."""
    bit = _code_bit(stream, states[slot], bit)
    states[slot] += (((bit << 16) - states[slot]) * 3) >> 6
    states[slot] = min(max(states[slot], 64), 65536 - 64)
    return bit


@_inlined
def _code_escape(stream: Stream, states: np.ndarray, value: int) -> int:
    """Exp-Golomb code of `value` ≥ 1: its bit length in unary, then its other bits, the leading ones adaptive."""
    # In unary, how many bits follow the leading one. When encoding, the condition reads `value`; when decoding, the
    # stream.
    exponent = 0
    while exponent < _EXPONENTS - 1 and _code_plain(stream, states, exponent, 1 if value >> (exponent + 1) else 0):
        exponent += 1
    # The first bits walk down a binary tree of probabilities, one tree per exponent; the rest are nearly random.
    node, result = 1, 1
    for index in range(exponent):
        bit = (value >> (exponent - 1 - index)) & 1
        if index < _TREE_BITS:
            bit = _code_plain(stream, states, _EXPONENTS + exponent * (1 << _TREE_BITS) + node, bit)
            node = 2 * node + bit
        else:
            bit = _code_bit(stream, 32768, bit)
        result = 2 * result + bit
    return result


@_inlined
def _code_symbol(stream: Stream, model: Model, tables: Tables, value: int, direct: int) -> int:
    """Code one signed integer; return it (decoded, when decoding). `direct` escapes without the unary part."""
    if _code_mixed(stream, model, tables, 0, 1 if value == 0 else 0):
        return 0
    negative = _code_mixed(stream, model, tables, 1, 1 if value < 0 else 0)
    wanted, first = abs(value), 2 + negative * _UNARY
    if direct:
        magnitude = _code_escape(stream, model.escapes[2 + negative], wanted)
        return -magnitude if negative else magnitude
    for magnitude in range(1, _UNARY + 1):
        if _code_mixed(stream, model, tables, first + magnitude - 1, 1 if wanted == magnitude else 0):
            return -magnitude if negative else magnitude
    magnitude = _UNARY + _code_escape(stream, model.escapes[negative], wanted - _UNARY)
    return -magnitude if negative else magnitude


@_inlined
def _clip(value: int) -> int:
    return min(max(value, -2), 2) + 2


@_inlined
def _side_context(side: np.ndarray, cols: int, index: int, col: int) -> int:
    """What is known beforehand about a symbol and its four neighbours, as one of 25 contexts."""
    around = side[index - 1] if col > 0 else 0
    around += side[index + 1] if col + 1 < cols else 0
    around += side[index - cols] if index >= cols else 0
    around += side[index + cols] if index + cols < side.size else 0
    return min(side[index], _CLIPPED - 1) * _CLIPPED + min(around, _CLIPPED - 1)


@_inlined
def _set_contexts(model: Model, tables: Tables, plane: Plane, row: int, col: int, odd: int) -> None:
    """Choose each input's context for a symbol, on the even or odd grid, from what precedes it."""
    # What the decoder knows too: `left` and `second` in this row, `up` and `corner` (above right) in the row above.
    codes, cols = plane.codes, plane.cols
    index = row * cols + col
    left = codes[index - 1] if col > 0 else 0
    second = codes[index - 2] if col > 1 else left
    up = codes[index - cols] if row > 0 else 0
    corner = codes[index - cols + 1] if row > 0 and col + 1 < cols else up
    # Mean magnitudes so far, in 64ths: of all, of this row, of this column, the latter two pulled towards the first.
    mean = max(plane.sums[1] // plane.sums[2], 1)
    by_row = (plane.sums[0] + 4 * mean) // (col + 4)
    by_column = (plane.columns[col] + 4 * mean) // (row + 4)
    # Row and column vary independently in a weight whose rows and columns have scales: product over the mean.
    both = min(by_row * by_column // mean, 4095)
    local = 16 * min(
        2 * abs(left)
        + abs(second)
        + 2 * abs(up)
        + abs(corner)
        + abs(codes[index - cols - 1] if row > 0 and col > 0 else 0),
        255,
    )
    pair = min(tables.bands[min(by_row, 4095)] >> 1, _PAIRS - 1) * _PAIRS
    pair += min(tables.bands[min(by_column, 4095)] >> 1, _PAIRS - 1)
    near = _side_context(plane.side, cols, index, col) if plane.side.size else _clip(left) * _CLIPPED + _clip(up)
    # First state of each input's present context, and the mixer's first row of weights.
    model.bases[_INPUTS] = odd * _BINS
    grid = odd * _ALL_SLOTS * _BINS
    model.bases[0] = grid
    model.bases[1] = grid + (1 + tables.bands[both]) * _BINS
    model.bases[2] = grid + (1 + _BANDS + tables.bands[local]) * _BINS
    model.bases[3] = grid + (1 + 2 * _BANDS + near) * _BINS
    model.bases[4] = grid + (1 + 2 * _BANDS + _CLIPPED * _CLIPPED + pair) * _BINS


@_compiled
def code_plane(stream: Stream, model: Model, tables: Tables, plane: Plane, start: int) -> int:
    """Code symbols from `start` on; return where it stopped: early when the buffer is nearly full, or nearly read."""
    # With a trellis, a value is a grid point m = 2k + odd, and the code k is what is coded; without, m is the code.
    shift = 1 if plane.odd.size > 1 else 0
    row, col = start // plane.cols, start % plane.cols
    for index in range(start, plane.codes.size):
        if col == plane.cols:
            row, col = row + 1, 0
        if col == 0:
            plane.sums[0] = 0
        # The caller then passes another buffer: nothing here allocates.
        if stream.registers[DECODING]:
            if stream.registers[POSITION] > stream.registers[LIMIT]:
                return index
        else:
            used = stream.registers[POSITION] + stream.registers[PENDING]
            if used + MARGIN_BYTES > stream.data.size:
                return index
        odd = plane.odd[plane.states[col]]
        _set_contexts(model, tables, plane, row, col, odd)
        direct = 1 if plane.sums[1] > _DIRECT * plane.sums[2] else 0
        code = _code_symbol(stream, model, tables, (plane.codes[index] - odd) >> shift, direct)
        plane.states[col] = plane.following[plane.states[col], code & 1]
        value = (code << shift) + odd
        plane.codes[index] = value
        # Outliers count as 63, so that one does not spoil the means of its row and column.
        scaled = 64 * min(abs(value), 63)
        plane.columns[col] += scaled
        plane.sums[0] += scaled
        plane.sums[1] += scaled
        plane.sums[2] += 1
        col += 1
    return plane.codes.size
