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
    DECODING,
    LOW,
    MARGIN_BYTES,
    PENDING,
    POSITION,
    RANGE,
    Plane,
    Stream,
    code_plane,
    coding_tables,
    move_byte,
    new_model,
)
from tokenbounds.messages.coding.trellis import Trellis, codes_of, grid_points

MAX_MAGNITUDE = (1 << 30) - 1
Machines = Sequence[Trellis | None] | None

_NO_TRELLIS = Trellis(np.zeros((1, 2), dtype=np.int64), np.zeros(1, dtype=np.int64))
_CHECKED_TOGETHER = 1 << 24  # values
_BUFFER_BYTES = 1 << 16
_COUNT_CARRIED = 30  # confidence in one array's statistics at the start of the next


def _new_plane(codes: np.ndarray, cols: int, machine: Trellis, side: np.ndarray | None) -> Plane:
    columns, states = np.zeros(cols, dtype=np.int64), np.zeros(cols, dtype=np.int64)
    # This row's sum, the sum of all, their number: as if one value of magnitude one (64 64ths) had been seen.
    sums = np.array([0, 64, 1], dtype=np.int64)
    known = np.zeros(0, dtype=np.int64) if side is None else np.abs(side.astype(np.int64)).reshape(-1)
    return Plane(codes, columns, sums, cols, machine.following, machine.odd, states, known)


def _new_registers(decoding: bool) -> np.ndarray:
    registers = np.zeros(6, dtype=np.int64)
    registers[RANGE], registers[DECODING] = 0xFFFFFFFF, decoding
    return registers


def _drain(stream: Stream, code: list[bytes]) -> Stream:
    """Move the bytes that no carry can change any more from the buffer to `code`; what is left has room to grow."""
    registers = stream.registers
    if registers[POSITION]:
        code.append(stream.data[: registers[POSITION]].tobytes())
        registers[POSITION] = 0
    room = 2 * (int(registers[PENDING]) + MARGIN_BYTES)
    return stream if room <= stream.data.size else Stream(registers, np.zeros(room, dtype=np.uint8))


def _flush(stream: Stream, code: list[bytes]) -> bytes:
    """End the code with the shortest number inside the last interval; bytes after the end read as zero."""
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
    while code and not (last := code.pop().rstrip(b"\0")):
        pass
    code.append(last)
    # The first byte is the carry out of the whole number, always zero.
    code[0] = code[0][1:]
    return b"".join(code)


def encode_planes(
    planes: Iterable[np.ndarray], machines: Machines = None, sides: Iterable[np.ndarray] | None = None
) -> bytes:
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
        The code. Shapes are not in it: the decoder must know them.

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
    stream, code = Stream(_new_registers(False), np.zeros(_BUFFER_BYTES, dtype=np.uint8)), list[bytes]()
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
        # Less confident at the start of the next array, so that the model adapts if that one is different.
        np.minimum(model.counts, _COUNT_CARRIED, out=model.counts)
    return _flush(stream, code)


def _is_on_grids(points: np.ndarray, machine: Trellis) -> bool:
    """Whether all grid points [length, sequences] are on the grids that a trellis allows; some sequences at a time."""
    most = max(_CHECKED_TOGETHER // max(len(points), 1), 1)
    parts = (points[:, first : first + most] for first in range(0, points.shape[1], most))
    return all(np.array_equal(grid_points(codes_of(part), machine), part) for part in parts)


def decode_planes(
    data: bytes,
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
    data: bytes,
    shapes: Sequence[tuple[int, int]],
    machines: Machines = None,
    sides: Iterable[np.ndarray] | None = None,
) -> Iterator[np.ndarray]:
    """Yield the arrays that `decode_planes` returns, one decoded at a time; what is wrong may show only at the end."""
    tables = coding_tables()
    machines = machines or [None] * len(shapes)
    model = new_model(tables, 2 if any(machines) else 1)
    followed = np.zeros(len(data) + 1, dtype=np.uint8)  # by a zero; the only copy, as a message may be large
    followed[:-1] = np.frombuffer(data, dtype=np.uint8)
    stream = Stream(_new_registers(True), followed)
    # Zero bytes at the end were not written: whatever is read after the data is zero.
    head = data[:4].ljust(4, b"\0")
    stream.registers[LOW], stream.registers[POSITION] = int.from_bytes(head, "big"), 4
    known: Iterable[np.ndarray | None] = repeat(None, len(shapes)) if sides is None else sides
    for (rows, cols), machine, side in zip(shapes, machines, known, strict=True):
        codes = np.zeros(rows * cols, dtype=np.int64)
        code_plane(stream, model, tables, _new_plane(codes, max(cols, 1), machine or _NO_TRELLIS, side), 0)
        np.minimum(model.counts, _COUNT_CARRIED, out=model.counts)
        decoded = codes.astype(np.int32).reshape(rows, cols)
        del codes  # twice as large; it would stay as long as the caller works with this array
        yield decoded
    if stream.registers[POSITION] < len(data) or data.endswith(b"\0"):
        raise MessageError("bytes are left over after the coded symbols.")
