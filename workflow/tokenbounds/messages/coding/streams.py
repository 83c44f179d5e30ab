"""Integer arrays in several adaptive streams, coded side by side: for models whose messages take long to decode.

Every stream begins with a model that has seen nothing. With millions of codes in each, that costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import encode_planes, iter_planes
from tokenbounds.messages.coding.trellis import Trellis
from tokenbounds.messages.container import read_varint, write_varint
from tokenbounds.messages.stored import ByteSpool, Data
from tokenbounds.threads import allowed_threads, in_threads

STREAM_CODES = 1 << 23
"""A stream ends with the array that makes it as long as this: part of the format."""


def encode_streams(
    plane: Callable[[int], np.ndarray], shapes: Sequence[tuple[int, int]], machines: Sequence[Trellis | None]
) -> Data:
    """Code integer arrays [rows, cols]; bytes do not depend on the number of threads.

    Layout: of each stream in turn, its length as a varint, and what `encode_planes` makes of its arrays.

    Parameters
    ----------
    plane
        Makes an array from its number; threads call it side by side.
    shapes
        Of all arrays, in the order that they are coded in.
    machines
        See `encode_planes`.
    """
    spool = ByteSpool()

    def work(run: range) -> Data:
        return encode_planes(map(plane, run), [machines[index] for index in run])

    for code in in_threads(work, _runs(shapes), allowed_threads()):
        spool.append(write_varint(len(code)) + bytes(code))
    return spool.finish()


def iter_streams(
    data: Data, shapes: Sequence[tuple[int, int]], machines: Sequence[Trellis | None]
) -> Iterator[np.ndarray]:
    """Yield what `encode_streams` coded, int32 [rows, cols], in order; each thread decodes a stream at a time.

    Raises
    ------
    MessageError
        If the bytes are detectably damaged, which may show only at the end.
    """
    places, offset = [], 0
    for run in _runs(shapes):
        size, offset = read_varint(data, offset)
        if size > len(data) - offset:
            raise MessageError("a stream of symbols is longer than the part that holds it.")
        places.append((run, offset, offset + size))
        offset += size
    if offset != len(data):
        raise MessageError("bytes are left over after the coded symbols.")

    def work(place: tuple[range, int, int]) -> list[np.ndarray]:
        run, begin, end = place
        planes = [shapes[index] for index in run]
        return list(iter_planes(data[begin:end], planes, [machines[index] for index in run]))

    for arrays in in_threads(work, places, allowed_threads()):
        while arrays:  # each is released once it was taken
            yield arrays.pop(0)


def _runs(shapes: Sequence[tuple[int, int]]) -> list[range]:
    """The numbers of the arrays in each stream."""
    runs, first, size = [], 0, 0
    for index, shape in enumerate(shapes):
        size += math.prod(shape)
        if size >= STREAM_CODES:
            runs.append(range(first, index + 1))
            first, size = index + 1, 0
    return runs if first == len(shapes) else [*runs, range(first, len(shapes))]
