"""Lattice codes in a message: planes of bytes over all layers together, entries and signs in separate planes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenbounds.messages.coding.lossless import decode_bytes, encode_bytes

Codes = tuple[np.ndarray, np.ndarray | None]


def encode_lattice_codes(layers: Sequence[Codes], bits: int) -> bytes:
    """Code the codes and residuals, uint16 arrays of any shapes, of all layers; shapes are not written.

    Plane by plane, each over all layers: entries of E8P, their signs, then residuals: entries and signs again at 4
    bits, the ball's codes at 3. Entries are not equally likely, so a static code saves a little; signs are raw.
    """
    planes = [code_planes(codes, bits) for codes in layers]
    groups = zip(*planes, strict=True)
    return b"".join(encode_bytes(np.concatenate([plane.reshape(-1) for plane in group])) for group in groups)


def decode_lattice_codes(
    data: bytes, offset: int, shapes: Sequence[tuple[int, int]], bits: int
) -> tuple[list[Codes], int]:
    """Decode what `encode_lattice_codes` wrote for layers [rows, blocks]; return them and the offset after them.

    Raises
    ------
    MessageError
        If the bytes are cut off or detectably damaged.
    """
    ends = np.cumsum([0, *(rows * blocks for rows, blocks in shapes)])
    planes = []
    for _ in range(bits if bits > 2 else 2):
        plane, offset = decode_bytes(data, offset, int(ends[-1]))
        planes.append(plane)
    layers: list[Codes] = []
    for shape, start, end in zip(shapes, ends[:-1], ends[1:], strict=True):
        own = [plane[start:end].astype(np.uint16).reshape(shape) for plane in planes]
        codes, residuals = own[0] << np.uint16(8) | own[1], None
        if bits == 3:
            residuals = own[2]
        elif bits == 4:
            residuals = own[2] << np.uint16(8) | own[3]
        layers.append((codes, residuals))
    return layers, offset


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
