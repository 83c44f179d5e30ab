"""Context-mixing binary arithmetic coder for arrays of small signed integers, in integer arithmetic throughout.

Each integer becomes binary decisions: zero or not, sign, then "larger still?" up to `_UNARY`, then an Exp-Golomb
escape. Several contexts (magnitudes of the neighbours, running means of the row and the column) each predict a
decision; a small online logistic mixer weighs them; a 32-bit range coder with carry writes the decision. No floats are
used and all tables come from correctly rounded decimals, so that bytes are identical on every machine.

References
----------
G. N. N. Martin, "Range encoding", 1979. M. Mahoney, "Adaptive weighing of context models", 2005 (logistic mixing).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.kernels import (
    COUNTS,
    DECODING,
    LIMIT,
    LOW,
    MARGIN_BYTES,
    PENDING,
    POSITION,
    RANGE,
    Model,
    Plane,
    Stream,
    code_plane,
    coding_tables,
    move_byte,
    new_model,
)
from tokenbounds.messages.coding.trellis import Trellis, codes_of, grid_points
from tokenbounds.messages.stored import ByteSpool, Data

MAX_MAGNITUDE = (1 << 30) - 1
Machines = Sequence[Trellis | None] | None

_NO_TRELLIS = Trellis(np.zeros((1, 2), dtype=np.int64), np.zeros(1, dtype=np.int64))
_CHECKED_TOGETHER = 1 << 24  # values
_BUFFER_BYTES = 1 << 16
_WINDOW_BYTES = 1 << 20  # of a code that is decoded, in memory at a time
_NEVER = 1 << 62
_COUNT_CARRIED = 30  # confidence in one array's statistics at the start of the next


def _new_plane(codes: np.ndarray, cols: int, machine: Trellis, side: np.ndarray | None) -> Plane:
    columns, states = np.zeros(cols, dtype=np.int64), np.zeros(cols, dtype=np.int64)
    # This row's sum, the sum of all, their number: as if one value of magnitude one (64 64ths) had been seen.
    sums = np.array([0, 64, 1], dtype=np.int64)
    known = np.zeros(0, dtype=np.int64) if side is None else np.abs(side.astype(np.int64)).reshape(-1)
    return Plane(codes, columns, sums, cols, machine.following, machine.odd, states, known)


def _forget(model: Model) -> None:
    """Be less confident at the start of the next array, so that the model adapts if that one is different."""
    model.states[:] = model.states & ~np.uint32(COUNTS) | np.minimum(model.states & COUNTS, _COUNT_CARRIED)


def _new_registers(decoding: bool) -> np.ndarray:
    registers = np.zeros(7, dtype=np.int64)
    registers[RANGE], registers[DECODING] = 0xFFFFFFFF, decoding
    return registers


class _Code:
    """The code that leaves the coder: without its first byte, the carry out of the whole number, which is always zero;
    and without zeros at its end, as bytes after the end read as zero.
    """

    def __init__(self) -> None:
        self._spool, self._zeros, self._begun = ByteSpool(), 0, False

    def append(self, chunk: bytes) -> None:
        """Add at least one byte."""
        if not self._begun:
            chunk, self._begun = chunk[1:], True
        if kept := chunk.rstrip(b"\0"):
            self._spool.append(bytes(self._zeros) + kept)
            self._zeros = 0
        self._zeros += len(chunk) - len(kept)

    def finish(self) -> Data:
        """All of it."""
        return self._spool.finish()


def _drain(stream: Stream, code: _Code) -> Stream:
    """Move the bytes that no carry can change any more from the buffer to `code`; what is left has room to grow."""
    registers = stream.registers
    if registers[POSITION]:
        code.append(stream.data[: registers[POSITION]].tobytes())
        registers[POSITION] = 0
    room = 2 * (int(registers[PENDING]) + MARGIN_BYTES)
    return stream if room <= stream.data.size else Stream(registers, np.zeros(room, dtype=np.uint8))


def _flush(stream: Stream, code: _Code) -> Data:
    """End the code with the shortest number inside the last interval."""
    # Any number in [low, low + width) will do: take the one with most zero bits at its end, which need not be written.
    registers = stream.registers
    low, width = int(registers[LOW]), int(registers[RANGE])
    for zeros in range(32, -1, -1):
        value = (low + (1 << zeros) - 1) >> zeros << zeros
        if value < low + width:
            break
    registers[LOW] = value
    stream = _drain(stream, code)
    for _ in range(5):
        move_byte(stream)
    _drain(stream, code)
    return code.finish()


def encode_planes(
    planes: Iterable[np.ndarray], machines: Machines = None, sides: Iterable[np.ndarray] | None = None
) -> Data:
    """Code several integer arrays into one stream, the statistics of each helping the next.

    Parameters
    ----------
    planes : int arrays [rows, cols]
        Neighbours in rows and columns are contexts of each other. |value| ≤ `MAX_MAGNITUDE`. One is taken at a time.
    machines : sequence of Trellis or None, optional
        A trellis for each array of grid points, each column a sequence; which grid a point is on is then known, and
        costs nothing.
    sides : int arrays [rows, cols], optional
        For each plane, integers that the decoder knows beforehand, whose magnitudes are a context too.

    Returns
    -------
    bytes
        The code, in a scratch file if it is long. Shapes are not in it: the decoder must know them.

    Raises
    ------
    MessageError
        If a value is too large, or not on the grid that the trellis allows.
    """
    tables = coding_tables()
    if machines is None:
        planes = list(planes)
        machines = [None] * len(planes)
    # One model and one range coder for all arrays: the second begins with what the first taught the model.
    model = new_model(tables, 2 if any(machines) else 1)
    stream, code = Stream(_new_registers(False), np.zeros(_BUFFER_BYTES, dtype=np.uint8)), _Code()
    known: Iterable[np.ndarray | None] = repeat(None, len(machines)) if sides is None else sides
    for array, machine, side in zip(planes, machines, known, strict=True):
        codes = np.array(array, dtype=np.int64).reshape(-1)
        if codes.size and max(-int(codes.min()), int(codes.max())) > MAX_MAGNITUDE:
            raise MessageError(f"a value beyond ±{MAX_MAGNITUDE} cannot be coded. Use a larger step.")
        if machine and not _is_on_grids(array, machine):
            raise MessageError("values are not on the grids that their trellis allows.")
        plane, done = _new_plane(codes, max(array.shape[1], 1), machine or _NO_TRELLIS, side), 0
        # The kernel stops when the buffer is nearly full; it goes on where it stopped.
        while (done := code_plane(stream, model, tables, plane, done)) < codes.size:
            stream = _drain(stream, code)
        _forget(model)
    return _flush(stream, code)


def _is_on_grids(points: np.ndarray, machine: Trellis) -> bool:
    """Whether all grid points [length, sequences] are on the grids that a trellis allows; some sequences at a time."""
    most = max(_CHECKED_TOGETHER // max(len(points), 1), 1)
    parts = (points[:, first : first + most] for first in range(0, points.shape[1], most))
    return all(np.array_equal(grid_points(codes_of(part), machine), part) for part in parts)


class _Window:
    """The part of a code that the decoder has in memory.

    Attributes
    ----------
    stream
        Its registers' position is inside the part; beyond the end of the code, bytes are zero.
    """

    def __init__(self, data: Data) -> None:
        head = data[:4]
        self._data, self._end = data, len(head)
        self.stream = Stream(_new_registers(True), np.zeros(0, dtype=np.uint8))
        self.stream.registers[LOW] = int.from_bytes(head.ljust(4, b"\0"), "big")
        self.move()

    def move(self) -> None:
        """Leave out what was read, and read more of the code."""
        registers = self.stream.registers
        left = self.stream.data[registers[POSITION] :]
        more = self._data[self._end : self._end + _WINDOW_BYTES]
        self._end += len(more)
        last = self._end == len(self._data)
        # At the end one zero more than there are bytes: the kernel is never given an empty array.
        part = np.concatenate([left, np.frombuffer(more, dtype=np.uint8), np.zeros(int(last), dtype=np.uint8)])
        self.stream = Stream(registers, part)
        registers[POSITION] = 0
        registers[LIMIT] = _NEVER if last else part.size - MARGIN_BYTES

    def leaves_bytes(self) -> bool:
        """Whether the code is longer than what was read of it, or ends in a zero, which is not written."""
        position = self.stream.registers[POSITION]
        unread = self._end < len(self._data) or position < self.stream.data.size - 1
        return unread or (len(self._data) > 0 and self._data[len(self._data) - 1] == 0)


def decode_planes(
    data: Data,
    shapes: Sequence[tuple[int, int]],
    machines: Machines = None,
    sides: Iterable[np.ndarray] | None = None,
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
    return list(iter_planes(data, shapes, machines, sides))


def iter_planes(
    data: Data,
    shapes: Sequence[tuple[int, int]],
    machines: Machines = None,
    sides: Iterable[np.ndarray] | None = None,
) -> Iterator[np.ndarray]:
    """Yield the arrays that `decode_planes` returns, one decoded at a time; what is wrong may show only at the end."""
    tables = coding_tables()
    machines = machines or [None] * len(shapes)
    model = new_model(tables, 2 if any(machines) else 1)
    window = _Window(data)
    known: Iterable[np.ndarray | None] = repeat(None, len(shapes)) if sides is None else sides
    for (rows, cols), machine, side in zip(shapes, machines, known, strict=True):
        codes = np.zeros(rows * cols, dtype=np.int64)
        plane, done = _new_plane(codes, max(cols, 1), machine or _NO_TRELLIS, side), 0
        # The kernel stops near the end of the window, and goes on there once it has moved.
        while (done := code_plane(window.stream, model, tables, plane, done)) < codes.size:
            window.move()
        _forget(model)
        decoded = codes.astype(np.int32).reshape(rows, cols)
        del codes, plane  # twice as large; they would stay as long as the caller works with this array
        yield decoded
        del decoded  # the next one is decoded before it would be replaced
    if window.leaves_bytes():
        raise MessageError("bytes are left over after the coded symbols.")
