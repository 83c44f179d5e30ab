"""Published QuIP# layers: the weights that their codes, scales and signs represent.

A layer's weight is diag(o) · H_m · C · H_n' · diag(i): C holds points of E8P (plus, at 3 and 4 bits, a residual point
divided by a constant), H are Hadamard matrices, i and o scale inputs and outputs; signs are in them, and after
fine-tuning they are not mere signs. Query, key and value form one such layer, and so do up and gate; each of their
pieces has a further scale. Everything is decoded by additions and multiplications in a fixed order, as in `hadamard`.
torch is not imported here.

References
----------
A. Tseng et al., "QuIP#", 2024, arXiv 2402.04396.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tokenbounds.errors import ModelError
from tokenbounds.models.pretrained.e8p import ball_points, e8p_points
from tokenbounds.models.pretrained.hadamard import hadamard_order, hadamard_transform

TILE_ROWS = 16  # codes are packed in tiles of this many rows
# Orders of factors for which our transforms agree with the publishers'.
_ORDERS = (1, 12, 20, 28, 36, 52, 60, 108, 116, 124, 140, 156, 172)
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "upgate_proj": ("up_proj", "gate_proj")}


@dataclass(frozen=True)
class Slot:
    """Where a published layer belongs: the weights that are its pieces, top to bottom, and their common inputs."""

    weights: tuple[str, ...]
    rows: tuple[int, ...]
    inputs: int

    @property
    def outputs(self) -> int:
        """Rows of all pieces."""
        return sum(self.rows)


@dataclass(frozen=True)
class LatticeLayer:
    """One layer as it is published, unpacked.

    Attributes
    ----------
    codes : uint16 array [outputs, inputs / 8]
        Of E8P.
    residuals : uint16 array [outputs, inputs / 8], or None at 2 bits
        Of the ball at 3 bits, of E8P at 4.
    inputs, outputs : float32 arrays [inputs], [outputs]
        The published SU and SV.
    scale : float32 array []
        The published Wscale.
    pieces : float32 array [pieces]
        Scales of fused pieces; one 1 for a layer by itself.
    rescale : float32 array [inputs], or None
        The published scaleWH: inputs are divided by it.
    """

    codes: np.ndarray
    residuals: np.ndarray | None
    inputs: np.ndarray
    outputs: np.ndarray
    scale: np.ndarray
    pieces: np.ndarray
    rescale: np.ndarray | None

    def dense(self, slot: Slot, bits: int, residual_scale: float) -> dict[str, np.ndarray]:
        """The pieces' weights, float32 [rows, inputs], by name."""
        core = lattice_values(self.codes, self.residuals, bits, residual_scale)  # C, [outputs, inputs]
        rows = hadamard_transform(core)  # H_m · C
        core = np.ascontiguousarray(hadamard_transform(np.ascontiguousarray(rows.T)).T)
        ends = np.cumsum(slot.rows)  # q, k and v are fused, and so are gate and up: pieces are runs of rows
        parts = zip(slot.weights, slot.rows, ends, self.pieces, strict=True)
        with np.errstate(all="ignore"):  # the code that loads the values checks that they are finite
            columns = self.inputs if self.rescale is None else self.inputs / self.rescale
            scaled = core * (self.outputs * self.scale)[:, None] * columns
            return {name: scaled[end - count : end] * piece for name, count, end, piece in parts}


@dataclass(frozen=True)
class PublishedCodes:
    """The coded layers of a checkpoint.

    Attributes
    ----------
    layers : mapping of str to LatticeLayer
        By the published name, in the model's order; those of a checkpoint are read when they are asked for.
    bits : {2, 3, 4}
    residual_scale : float
        Divisor of residual points; 1 at 2 bits.
    """

    layers: Mapping[str, LatticeLayer]
    bits: int
    residual_scale: float


def lattice_values(codes: np.ndarray, residuals: np.ndarray | None, bits: int, residual_scale: float) -> np.ndarray:
    """Float32 values [rows, 8 · blocks] of codes [rows, blocks]: points, and residual points divided by a constant."""
    rows = len(codes)
    values = e8p_points()[codes].astype(np.float32).reshape(rows, -1) * np.float32(0.25)
    if residuals is None:
        return values
    points, unit = (ball_points(), 0.5) if bits == 3 else (e8p_points(), 0.25)
    return values + points[residuals].astype(np.float32).reshape(rows, -1) * np.float32(unit / residual_scale)


def slots_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Slot]:
    """The published layers of a llama or mistral model, by name, from the shapes of its parameters."""
    slots = {}
    for name, shape in shapes.items():
        owner, _, leaf = name.removesuffix(".weight").rpartition(".")
        if leaf in ("o_proj", "down_proj"):
            slots[f"{owner}.{leaf}"] = Slot((name,), (shape[0],), shape[1])
        for fused, pieces in _FUSED.items():
            if leaf == pieces[0]:
                weights = tuple(f"{owner}.{piece}.weight" for piece in pieces)
                slots[f"{owner}.{fused}"] = Slot(weights, tuple(shapes[weight][0] for weight in weights), shape[1])
    return slots


def check_sizes(name: str, slot: Slot) -> None:
    """Refuse sizes that QuIP# has no packing or no Hadamard matrix for.

    Raises
    ------
    ModelError
        The layer is named.
    """
    sizes = (slot.outputs, slot.inputs)
    if slot.outputs % TILE_ROWS or slot.inputs % 64 or any(hadamard_order(size) not in _ORDERS for size in sizes):
        raise ModelError(f"{name}: a layer of {slot.outputs} × {slot.inputs} cannot be a QuIP# layer.")
