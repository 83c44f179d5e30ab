"""Symbols of many tensors in one part: shapes are known to the decoder, so only codes are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import MAX_MAGNITUDE, Machines, encode_planes, iter_planes
from tokenbounds.messages.coding.static import decode_static, encode_static
from tokenbounds.messages.coding.streams import encode_streams, iter_streams
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.trellis import codes_of, grid_points
from tokenbounds.messages.container import read_varint, write_varint
from tokenbounds.messages.stored import ByteSpool, Data

Shape = tuple[int, ...]


class CodeSequence(Sequence[np.ndarray]):
    """Integer arrays of known shapes, each made when it is asked for, so that few are in memory at once."""

    def __init__(self, shapes: Sequence[Shape], make: Callable[[int], np.ndarray]) -> None:
        self.shapes, self._make = list(shapes), make

    def __getitem__(self, index: Any) -> Any:
        return self._make(range(len(self.shapes))[index])

    def __len__(self) -> int:
        return len(self.shapes)


def encode_codes(
    arrays: Sequence[np.ndarray], coder: Coder, machines: Machines = None, sides: Sequence[np.ndarray] | None = None
) -> Data:
    """Code signed integer arrays of any shape, matrices before vectors.

    Adaptive: one stream, given `sides`, arrays of the same shapes that the decoder knows. Parallel: several, without
    sides; see `streams`. Static: one table per matrix and one for all vectors together. `machines` holds a trellis for
    each array of grid points and None for the others; only matrices may have one.
    """
    shapes = arrays.shapes if isinstance(arrays, CodeSequence) else [array.shape for array in arrays]
    machines = machines or [None] * len(arrays)
    if coder == "adaptive":
        machines = [machines[index] for index in _order(shapes)]
        return encode_planes(_planes(arrays, shapes), machines, None if sides is None else _planes(sides, shapes))
    _refuse_sides(sides)
    if coder == "parallel":
        order = _order(shapes)
        planes = [plane_shape(shapes[index]) for index in order]

        def plane(place: int) -> np.ndarray:
            return arrays[order[place]].reshape(planes[place])

        return encode_streams(plane, planes, [machines[index] for index in order])
    spool = ByteSpool()
    for group in _groups(shapes):
        codes = np.concatenate(
            [(codes_of(arrays[index]) if machines[index] else arrays[index]).reshape(-1) for index in group]
        )
        codes = codes.astype(np.int64)
        # Static tables are for symbols from zero up: the least code is written first, its sign in the lowest bit
        # (zigzag).
        least = int(codes.min()) if codes.size else 0
        block = encode_static(codes - least, 1 << 30)
        spool.append(write_varint(2 * abs(least) + (least < 0)) + write_varint(len(block)) + block)
    return spool.finish()


def decode_codes(
    data: Data,
    shapes: Sequence[Shape],
    coder: Coder,
    machines: Machines = None,
    sides: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Decode what `encode_codes` wrote, given the same `sides`: int32 arrays of the given shapes.

    Raises
    ------
    MessageError
        If the bytes are detectably damaged.
    """
    arrays = dict(iter_codes(data, shapes, coder, machines, sides))
    return [arrays[index] for index in range(len(shapes))]


def iter_codes(
    data: Data,
    shapes: Sequence[Shape],
    coder: Coder,
    machines: Machines = None,
    sides: Sequence[np.ndarray] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield what `decode_codes` returns, one array decoded at a time, in the order of the bytes, with its number.

    Raises
    ------
    MessageError
        If the bytes are detectably damaged, which may show only at the end.
    """
    machines = machines or [None] * len(shapes)
    if coder != "adaptive":
        _refuse_sides(sides)
    if coder in ("adaptive", "parallel"):
        order = _order(shapes)
        planes, own = [plane_shape(shapes[index]) for index in order], [machines[index] for index in order]
        if coder == "parallel":
            decoded = iter_streams(data, planes, own)
        else:
            decoded = iter_planes(data, planes, own, None if sides is None else _planes(sides, shapes))
        places = iter(order)
        for array in decoded:  # zip would keep each array while the next is decoded
            index = next(places)
            yield index, array.reshape(shapes[index])
            del array
    elif coder == "static":
        for index, codes in _iter_static_groups(data, shapes):
            machine = machines[index]
            if machine:
                codes = grid_points(codes.reshape(plane_shape(shapes[index])), machine).astype(np.int32)
            yield index, codes.reshape(shapes[index])
    else:
        raise MessageError(f"unknown coder {coder!r:.40}. Known: adaptive, parallel, static.")


def _planes(arrays: Sequence[np.ndarray], shapes: Sequence[Shape]) -> Iterator[np.ndarray]:
    """Arrays as planes, in the order they are coded in."""
    return (arrays[index].reshape(plane_shape(shapes[index])) for index in _order(shapes))


def _refuse_sides(sides: Sequence[np.ndarray] | None) -> None:
    if sides is not None:
        raise MessageError("only the adaptive coder can use sides.")


def _iter_static_groups(data: Data, shapes: Sequence[Shape]) -> Iterator[tuple[int, np.ndarray]]:
    offset = 0
    for group in _groups(shapes):
        zigzag, offset = read_varint(data, offset)
        size, offset = read_varint(data, offset)
        if size > len(data) - offset or zigzag > 2 * MAX_MAGNITUDE:
            raise MessageError("the symbols' lengths do not fit the part that holds them.")
        least = -(zigzag // 2) if zigzag % 2 else zigzag // 2
        sizes = [math.prod(shapes[index]) for index in group]
        codes = decode_static(data[offset : offset + size], sum(sizes), 1 << 30).astype(np.int64) + least
        offset += size
        if codes.size and max(-int(codes.min()), int(codes.max())) > MAX_MAGNITUDE:
            raise MessageError(f"a decoded value lies beyond ±{MAX_MAGNITUDE}.")
        pieces = np.split(codes.astype(np.int32), np.cumsum(sizes)[:-1])
        yield from zip(group, pieces, strict=True)
    if offset != len(data):
        raise MessageError("bytes are left over after the coded symbols.")


def _order(shapes: Sequence[Shape]) -> list[int]:
    """Matrices, then vectors, each in the model's order: similar tensors are neighbours, as statistics carry over."""
    return sorted(range(len(shapes)), key=lambda index: len(shapes[index]) < 2)


def _groups(shapes: Sequence[Shape]) -> list[list[int]]:
    """Which tensors share a static table: every matrix has its own, vectors are too short and share one."""
    order = _order(shapes)
    vectors = [index for index in order if len(shapes[index]) < 2]
    matrices = [[index] for index in order if len(shapes[index]) >= 2]
    return [*matrices, vectors] if vectors else matrices


def plane_shape(shape: Shape) -> tuple[int, int]:
    """Rows and columns of a tensor as it is coded: all but the last dimension are rows; a vector is one row."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return math.prod(shape[:-1]), shape[-1]
