"""Context-mixing binary arithmetic coder for arrays of small signed integers, in integer arithmetic throughout.

Each integer becomes binary decisions: zero or not, sign, then "larger still?" up to `_UNARY`, then an Exp-Golomb
escape. Several contexts (magnitudes of the neighbours, running means of the row and the column) each predict a
decision; a small online logistic mixer weighs them; a 32-bit range coder with carry writes the decision. Nothing is
a float and all tables come from correctly rounded decimals, so that bytes are identical on every machine.

References
----------
G. N. N. Martin, "Range encoding", 1979. M. Mahoney, "Adaptive weighing of context models", 2005 (logistic mixing).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from tokenbounds.errors import MessageError
from tokenbounds.messages.trellis import Trellis, codes_of, grid_points

MAX_MAGNITUDE = (1 << 30) - 1
Machines = Sequence[Trellis | None] | None

_UNARY = 14  # magnitudes up to this are coded in unary
_BINS = 2 + 2 * _UNARY
_DIRECT = 64 * 40  # mean magnitude, in 64ths, beyond which no unary part is coded
_EXPONENTS = 31
_TREE_BITS = 6  # leading mantissa bits of an escape with adaptive probabilities
_INPUTS = 5
_INITIAL_WEIGHTS = (9830, 26214, 13107, 13107, 13107)  # in 65536ths: 0.15, 0.4, 0.2, 0.2, 0.2
_LEVELS = 48  # of a quantized logarithm of an expected magnitude
_PAIRS = 24
_CLIPPED = 5
_SLOTS = (1, _LEVELS, _LEVELS, _CLIPPED * _CLIPPED, _PAIRS * _PAIRS)
_ALL_SLOTS = sum(_SLOTS)
_NO_TRELLIS = Trellis(np.zeros((1, 2), dtype=np.int64), np.zeros(1, dtype=np.int64))
_STATE_BITS = 22
_HALF = 1 << (_STATE_BITS - 1)
_COUNT_LIMIT = 1023
_COUNT_CARRIED = 30  # how sure statistics from one array still are at the start of the next
_STRETCH_LIMIT = 2900  # 256 × the logit of 1 − 2^-16, rounded up
_MARGIN_BYTES = 512  # one symbol never writes more, pending carries aside
_LOW, _RANGE, _CACHE, _PENDING, _POSITION, _DECODING = range(6)


# Without numba's reference counting (nothing here allocates) the coder is ten times as fast.
_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False}
_compiled = njit(**_OPTIONS)
_inlined = njit(inline="always", **_OPTIONS)


class _Stream(NamedTuple):
    registers: np.ndarray  # int64 [6]
    data: np.ndarray  # uint8


class _Model(NamedTuple):
    states: np.ndarray  # int64 [grids × inputs' slots × bins], probability of a one, `_STATE_BITS` fractional bits
    counts: np.ndarray  # int64, how often each state was updated, up to the limit
    weights: np.ndarray  # int64 [grids × bins, inputs], 16 fractional bits
    updates: np.ndarray  # int64 [grids × bins]
    escapes: np.ndarray  # int64 [4, exponents × (2^tree_bits + 1)], 16-bit probabilities
    bases: np.ndarray  # int64 [inputs + 1], first state of the present context of each input, first of the weights
    inputs: np.ndarray  # int64 [inputs], stretched probabilities of the present decision


class _Tables(NamedTuple):
    squash: np.ndarray  # int64: logit (8 fractional bits, shifted) → 16-bit probability
    stretch: np.ndarray  # int64 [65536]: 16-bit probability → logit
    rates: np.ndarray  # int64: count → update rate, 16 fractional bits
    trust: np.ndarray  # int64: count → weight of a young prediction, 8 fractional bits
    levels: np.ndarray  # int64 [4096]: magnitude in 64ths → quantized logarithm


class _Plane(NamedTuple):
    codes: np.ndarray  # int64 [rows × cols]
    columns: np.ndarray  # int64 [cols]: sum of magnitudes so far, in 64ths
    sums: np.ndarray  # int64 [3]: of this row, of all, number of all
    cols: int
    following: np.ndarray  # int64 [machine's states, 2]; without a trellis there is one state
    odd: np.ndarray  # int64 [machine's states]
    states: np.ndarray  # int64 [cols]: the machine's state in each column
    side: np.ndarray  # int64 [rows × cols]: magnitudes that the decoder knows beforehand; empty if there are none


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    """Tables of the format version, from exact or correctly rounded arithmetic."""
    with localcontext() as context:
        context.prec = 30
        logits = [Decimal(k) / 256 for k in range(-_STRETCH_LIMIT, _STRETCH_LIMIT + 1)]
        squash = np.array([int((65536 / (1 + (-x).exp())).to_integral_value()) for x in logits], dtype=np.int64)
    squash = np.clip(squash, 1, 65535)
    stretch = np.searchsorted(squash, np.arange(65536)).astype(np.int64) - _STRETCH_LIMIT
    stretch = np.clip(stretch, -_STRETCH_LIMIT, _STRETCH_LIMIT)
    counts = np.arange(_COUNT_LIMIT + 1, dtype=np.int64)
    rates = (65536 * 10) // (10 * counts + 16)
    trust = (256 * (2 * counts + 1)) // (2 * counts + 7)
    values = np.arange(4096, dtype=np.int64)
    lengths = np.array([int(value).bit_length() for value in values], dtype=np.int64)
    quarter = np.where(lengths >= 3, (values >> np.maximum(lengths - 3, 0)) & 3, values & 3)
    levels = np.minimum(np.where(lengths >= 3, 4 * (lengths - 2) + quarter, values), _LEVELS - 1)
    return _Tables(squash, stretch, rates, trust, levels)


def _new_model(tables: _Tables, grids: int) -> _Model:
    states = np.full((_ALL_SLOTS, _BINS), _HALF, dtype=np.int64)
    counts = np.zeros((_ALL_SLOTS, _BINS), dtype=np.int64)
    # Before anything is seen, a magnitude expected to be E is geometric: it stops growing with probability 1 / (1 + E).
    means = np.searchsorted(tables.levels, np.arange(_LEVELS))
    stops = (64 << _STATE_BITS) // (64 + means)
    by_level = slice(_SLOTS[0], _SLOTS[0] + _LEVELS)
    for which in [0, *range(2, _BINS)]:
        states[by_level, which] = np.minimum(stops, (1 << _STATE_BITS) - (1 << 12))
        counts[by_level, which] = 4
    return _Model(
        states=np.tile(states.reshape(-1), grids),
        counts=np.tile(counts.reshape(-1), grids),
        weights=np.tile(np.array(_INITIAL_WEIGHTS, dtype=np.int64), (grids * _BINS, 1)),
        updates=np.zeros(grids * _BINS, dtype=np.int64),
        escapes=np.full((4, _EXPONENTS * ((1 << _TREE_BITS) + 1)), 32768, dtype=np.int64),
        bases=np.zeros(_INPUTS + 1, dtype=np.int64),
        inputs=np.zeros(_INPUTS, dtype=np.int64),
    )


def _new_plane(codes: np.ndarray, cols: int, machine: Trellis, side: np.ndarray | None) -> _Plane:
    columns, states = np.zeros(cols, dtype=np.int64), np.zeros(cols, dtype=np.int64)
    sums = np.array([0, 64, 1], dtype=np.int64)
    known = np.zeros(0, dtype=np.int64) if side is None else np.abs(side.astype(np.int64)).reshape(-1)
    return _Plane(codes, columns, sums, cols, machine.following, machine.odd, states, known)


@_compiled
def _shift(stream: _Stream) -> None:
    """Move eight bits out of (or into) the coder's registers, carrying where needed."""
    registers, data = stream.registers, stream.data
    registers[_RANGE] <<= 8
    if registers[_DECODING]:
        position = registers[_POSITION]
        byte = data[position] if position < data.size else 0
        registers[_LOW] = ((registers[_LOW] << 8) | byte) & 0xFFFFFFFF
        registers[_POSITION] = position + 1
        return
    low = registers[_LOW]
    if low < 0xFF000000 or low >= 1 << 32:
        carry = low >> 32
        data[registers[_POSITION]] = (registers[_CACHE] + carry) & 0xFF
        registers[_POSITION] += 1
        while registers[_PENDING] > 0:
            data[registers[_POSITION]] = (0xFF + carry) & 0xFF
            registers[_POSITION] += 1
            registers[_PENDING] -= 1
        registers[_CACHE] = (low >> 24) & 0xFF
    else:
        registers[_PENDING] += 1
    registers[_LOW] = (low & 0x00FFFFFF) << 8


@_inlined
def _code_bit(stream: _Stream, probability: int, bit: int) -> int:
    """Encode `bit`, or decode and return it; `probability` of a one is in 65536ths."""
    registers = stream.registers
    bound = (registers[_RANGE] * probability) >> 16
    if registers[_DECODING]:
        bit = 1 if registers[_LOW] < bound else 0
        if bit == 0:
            registers[_LOW] -= bound
    elif bit == 0:
        registers[_LOW] += bound
    registers[_RANGE] = bound if bit else registers[_RANGE] - bound
    while registers[_RANGE] < 1 << 24:
        _shift(stream)
    return bit


@_inlined
def _code_mixed(stream: _Stream, model: _Model, tables: _Tables, which: int, bit: int) -> int:
    """Code decision `which` of a symbol with the mixed prediction of all contexts, then learn from it."""
    mixer = model.bases[_INPUTS] + which
    weights = model.weights[mixer]
    total = 0
    for k in range(_INPUTS):
        slot = model.bases[k] + which
        logit = tables.stretch[model.states[slot] >> (_STATE_BITS - 16)] * tables.trust[model.counts[slot]] >> 8
        model.inputs[k] = logit
        total += logit * weights[k]
    total = min(max(total >> 16, -_STRETCH_LIMIT), _STRETCH_LIMIT)
    probability = tables.squash[total + _STRETCH_LIMIT]
    bit = _code_bit(stream, probability, bit)
    error = ((bit << 16) - probability) * (10 + 24 * 64 // (model.updates[mixer] + 64))
    model.updates[mixer] = min(model.updates[mixer] + 1, 1 << 20)
    target = bit << _STATE_BITS
    for k in range(_INPUTS):
        weights[k] += (model.inputs[k] * error + (1 << 19)) >> 20
        slot = model.bases[k] + which
        model.states[slot] += ((target - model.states[slot]) * tables.rates[model.counts[slot]]) >> 16
        model.states[slot] = min(max(model.states[slot], 64), (1 << _STATE_BITS) - 64)
        model.counts[slot] = min(model.counts[slot] + 1, _COUNT_LIMIT)
    return bit


@_inlined
def _code_plain(stream: _Stream, states: np.ndarray, slot: int, bit: int) -> int:
    """Code a bit of an escape with one adaptive probability."""
    bit = _code_bit(stream, states[slot], bit)
    states[slot] += (((bit << 16) - states[slot]) * 3) >> 6
    states[slot] = min(max(states[slot], 64), 65536 - 64)
    return bit


@_inlined
def _code_escape(stream: _Stream, states: np.ndarray, value: int) -> int:
    """Exp-Golomb code of `value` ≥ 1: its bit length in unary, then its other bits, the leading ones adaptive."""
    exponent = 0
    while exponent < _EXPONENTS - 1 and _code_plain(stream, states, exponent, 1 if value >> (exponent + 1) else 0):
        exponent += 1
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
def _code_symbol(stream: _Stream, model: _Model, tables: _Tables, value: int, direct: int) -> int:
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
def _side_context(side: np.ndarray, cols: int, index: int) -> int:
    """What is known beforehand of a symbol and its four neighbours, as one of 25 contexts."""
    around = side[index - 1] if index % cols > 0 else 0
    around += side[index + 1] if index % cols + 1 < cols else 0
    around += side[index - cols] if index >= cols else 0
    around += side[index + cols] if index + cols < side.size else 0
    return min(side[index], _CLIPPED - 1) * _CLIPPED + min(around, _CLIPPED - 1)


@_inlined
def _set_contexts(model: _Model, tables: _Tables, plane: _Plane, index: int, odd: int) -> None:
    """Choose each input's context for the symbol at `index`, on the even or odd grid, from what was coded before it."""
    codes, cols = plane.codes, plane.cols
    row, col = index // cols, index % cols
    left = codes[index - 1] if col > 0 else 0
    second = codes[index - 2] if col > 1 else left
    up = codes[index - cols] if row > 0 else 0
    corner = codes[index - cols + 1] if row > 0 and col + 1 < cols else up
    mean = max(plane.sums[1] // plane.sums[2], 1)
    by_row = (plane.sums[0] + 4 * mean) // (col + 4)
    by_column = (plane.columns[col] + 4 * mean) // (row + 4)
    both = min(by_row * by_column // mean, 4095)
    local = 16 * min(
        2 * abs(left)
        + abs(second)
        + 2 * abs(up)
        + abs(corner)
        + abs(codes[index - cols - 1] if row > 0 and col > 0 else 0),
        255,
    )
    pair = min(tables.levels[min(by_row, 4095)] >> 1, _PAIRS - 1) * _PAIRS
    pair += min(tables.levels[min(by_column, 4095)] >> 1, _PAIRS - 1)
    near = _side_context(plane.side, cols, index) if plane.side.size else _clip(left) * _CLIPPED + _clip(up)
    model.bases[_INPUTS] = odd * _BINS
    grid = odd * _ALL_SLOTS * _BINS
    model.bases[0] = grid
    model.bases[1] = grid + (1 + tables.levels[both]) * _BINS
    model.bases[2] = grid + (1 + _LEVELS + tables.levels[local]) * _BINS
    model.bases[3] = grid + (1 + 2 * _LEVELS + near) * _BINS
    model.bases[4] = grid + (1 + 2 * _LEVELS + _CLIPPED * _CLIPPED + pair) * _BINS


@_compiled
def _code_plane(stream: _Stream, model: _Model, tables: _Tables, plane: _Plane, start: int) -> int:
    """Code symbols from `start` on; return where it stopped (early when the output buffer is nearly full)."""
    shift = 1 if plane.odd.size > 1 else 0
    for index in range(start, plane.codes.size):
        if index % plane.cols == 0:
            plane.sums[0] = 0
        if not stream.registers[_DECODING]:
            used = stream.registers[_POSITION] + stream.registers[_PENDING]
            if used + _MARGIN_BYTES > stream.data.size:
                return index
        col = index % plane.cols
        odd = plane.odd[plane.states[col]]
        _set_contexts(model, tables, plane, index, odd)
        direct = 1 if plane.sums[1] > _DIRECT * plane.sums[2] else 0
        code = _code_symbol(stream, model, tables, (plane.codes[index] - odd) >> shift, direct)
        plane.states[col] = plane.following[plane.states[col], code & 1]
        value = (code << shift) + odd
        plane.codes[index] = value
        scaled = 64 * min(abs(value), 63)
        plane.columns[col] += scaled
        plane.sums[0] += scaled
        plane.sums[1] += scaled
        plane.sums[2] += 1
    return plane.codes.size


def _new_registers(decoding: bool) -> np.ndarray:
    registers = np.zeros(6, dtype=np.int64)
    registers[_RANGE], registers[_DECODING] = 0xFFFFFFFF, decoding
    return registers


def _flush(stream: _Stream) -> bytes:
    """End the code with the shortest number inside the last interval; bytes behind the end read as zero."""
    registers = stream.registers
    low, width = int(registers[_LOW]), int(registers[_RANGE])
    for zeros in range(32, -1, -1):
        value = (low + (1 << zeros) - 1) >> zeros << zeros
        if value < low + width:
            break
    registers[_LOW] = value
    for _ in range(5):
        _shift(stream)
    # The first byte is the carry out of the whole number, always zero.
    return stream.data[1 : registers[_POSITION]].tobytes().rstrip(b"\0")


def encode_planes(
    planes: Sequence[np.ndarray], machines: Machines = None, sides: Sequence[np.ndarray] | None = None
) -> bytes:
    """Code several integer arrays into one stream, the statistics of each helping the next.

    Parameters
    ----------
    planes : sequence of int arrays [rows, cols]
        Neighbours in rows and columns are contexts of each other. |value| ≤ `MAX_MAGNITUDE`.
    machines : sequence of Trellis or None, optional
        A trellis for each array of grid points, each column a sequence; which grid is known there, and costs nothing.
    sides : sequence of int arrays [rows, cols], optional
        For each plane integers that the decoder knows beforehand, whose magnitudes are a context too.

    Returns
    -------
    bytes
        The code. Shapes are not in it: the decoder must know them.

    Raises
    ------
    MessageError
        If a value is too large, or not on the grid that the trellis allows.
    """
    tables = _tables()
    machines = machines or [None] * len(planes)
    model = _new_model(tables, 2 if any(machines) else 1)
    stream = _Stream(_new_registers(False), np.zeros(1 << 14, dtype=np.uint8))
    known = sides or repeat(None, len(planes))
    for array, machine, side in zip(planes, machines, known, strict=True):
        codes = np.array(array, dtype=np.int64).reshape(-1)
        if codes.size and max(-int(codes.min()), int(codes.max())) > MAX_MAGNITUDE:
            raise MessageError(f"a value beyond ±{MAX_MAGNITUDE} cannot be coded. Use a larger step.")
        if machine and not np.array_equal(grid_points(codes_of(array), machine), array):
            raise MessageError("values are not on the grids that their trellis allows.")
        plane, done = _new_plane(codes, max(array.shape[1], 1), machine or _NO_TRELLIS, side), 0
        while (done := _code_plane(stream, model, tables, plane, done)) < codes.size:
            size = 2 * stream.data.size + int(stream.registers[_PENDING])
            stream = _Stream(stream.registers, np.concatenate([stream.data, np.zeros(size, dtype=np.uint8)]))
        np.minimum(model.counts, _COUNT_CARRIED, out=model.counts)
    pending = np.zeros(int(stream.registers[_PENDING]) + _MARGIN_BYTES, dtype=np.uint8)
    return _flush(_Stream(stream.registers, np.concatenate([stream.data, pending])))


def decode_planes(
    data: bytes,
    shapes: Sequence[tuple[int, int]],
    machines: Machines = None,
    sides: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Decode what `encode_planes` wrote, given shapes and sides; time and memory depend on these alone.

    Returns
    -------
    list of int32 arrays [rows, cols]

    Raises
    ------
    MessageError
        If bytes are left over.
    """
    tables = _tables()
    machines = machines or [None] * len(shapes)
    model = _new_model(tables, 2 if any(machines) else 1)
    stream = _Stream(_new_registers(True), np.frombuffer(bytearray(data) + b"\0", dtype=np.uint8))
    head = data[:4].ljust(4, b"\0")
    stream.registers[_LOW], stream.registers[_POSITION] = int.from_bytes(head, "big"), 4
    decoded = []
    known = sides or repeat(None, len(shapes))
    for (rows, cols), machine, side in zip(shapes, machines, known, strict=True):
        codes = np.zeros(rows * cols, dtype=np.int64)
        _code_plane(stream, model, tables, _new_plane(codes, max(cols, 1), machine or _NO_TRELLIS, side), 0)
        np.minimum(model.counts, _COUNT_CARRIED, out=model.counts)
        decoded.append(codes.astype(np.int32).reshape(rows, cols))
    if stream.registers[_POSITION] < len(data) or data.endswith(b"\0"):
        raise MessageError("bytes are left over behind the coded symbols.")
    return decoded
