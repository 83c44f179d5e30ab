"""Lattice codes in a message: planes of bytes over all layers together, entries and signs in separate planes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tokenbounds.messages.coding.lossless import ByteReader, encode_byte_arrays
from tokenbounds.messages.stored import ByteSpool, Data

Codes = tuple[np.ndarray, np.ndarray | None]


def encode_lattice_codes(layers: Callable[[], Iterable[Codes]], bits: int, head: bytes = b"") -> Data:
    """Code the codes and residuals, uint16 arrays of any shapes, of all layers, after `head`; shapes are not written.

    Plane by plane, each over all layers: entries of E8P, their signs, then residuals: entries and signs again at 4
    bits, the ball's codes at 3. Entries are not equally likely, so a static code saves a little; signs are raw.
    `layers` is called once for each plane, so that the codes need not be in memory together.
    """
    spool = ByteSpool()
    spool.append(head)
    for which in range(plane_count(bits)):
        for block in encode_byte_arrays(code_planes(codes, bits)[which].reshape(-1) for codes in layers()):
            spool.append(block)
    return spool.finish()


def open_lattice_codes(
    data: Data, offset: int, shapes: Sequence[tuple[int, int]], bits: int
) -> tuple[Iterator[Codes], int]:
    """What `encode_lattice_codes` wrote for layers [rows, blocks], each decoded when it is taken; the offset after all.

    Raises
    ------
    MessageError
        If the bytes are cut off or detectably damaged; some damage shows only when a layer is taken.
    """
    count = sum(rows * blocks for rows, blocks in shapes)
    planes = []
    for _ in range(plane_count(bits)):
        planes.append(ByteReader(data, offset, count))
        offset = planes[-1].end
    return (_join([plane.read(math.prod(shape)).reshape(shape) for plane in planes], bits) for shape in shapes), offset


def _join(planes: Sequence[np.ndarray], bits: int) -> Codes:
    """One layer's codes from its planes, uint8 [rows, blocks] each."""
    own = [plane.astype(np.uint16) for plane in planes]
    codes = own[0] << np.uint16(8) | own[1]
    if bits == 2:
        return codes, None
    return codes, own[2] if bits == 3 else own[2] << np.uint16(8) | own[3]


def plane_count(bits: int) -> int:
    """How many planes a layer's codes have."""
    return max(bits, 2)


def code_planes(codes: Codes, bits: int) -> list[np.ndarray]:
    """The planes of one layer, uint8, each in the shape of its codes."""
    first, residuals = codes
    planes = [first >> 8, first & 255]
    if residuals is not None:
        planes += [residuals] if bits == 3 else [residuals >> 8, residuals & 255]
    return [plane.astype(np.uint8) for plane in planes]


def code_bytes(codes: Codes, bits: int) -> np.ndarray:
    """The bytes of one layer's codes, uint8 [codes, planes]."""
    return np.stack([plane.reshape(-1) for plane in code_planes(codes, bits)], axis=1)
