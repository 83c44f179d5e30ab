"""Published QuIP# checkpoints: the codes, scales and signs of each layer, read from their files.

References
----------
The checkpoints `relaxml/*-E8P-2Bit`, `*-E8PRVQ-3Bit` and `*-E8PRVQ-4Bit`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from tokenbounds.errors import ModelError
from tokenbounds.models.pretrained.e8p import SIZE
from tokenbounds.models.pretrained.lattice_layers import (
    TILE_ROWS,
    LatticeLayer,
    PublishedCodes,
    Slot,
    check_sizes,
    slots_of,
)
from tokenbounds.models.pretrained.tensor_files import TensorFiles, taken

FAMILIES = ("llama", "mistral")
QUIP_SHARP = "quip_sharp"
_CODEBOOKS = {"E8P12": (7, 2), "E8P12RVQ3B": (18, 3), "E8P12RVQ4B": (17, 4)}
_RESIDUAL_SCALES = {3: 2.04, 4: 3.45}
_FLOATS = (torch.float16, torch.float32)


class QuipValues:
    """The dense tensors of a published checkpoint, a layer decoded when one of its weights is read.

    Parameters
    ----------
    files : TensorFiles
    params
        `quip_params` of its configuration.
    shapes : mapping of str to tuple of int
        Of the parameters of the dense model.

    Attributes
    ----------
    codes : PublishedCodes
    names
        The weights that are coded, and everything else: embeddings, norms, head.

    Raises
    ------
    ModelError
        If the format is not one of those read.
    """

    def __init__(self, files: TensorFiles, params: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._files, self._slots = files, slots_of(shapes)
        identifier, bits, residual_scale = codebook_of(params)
        if len({f"{name}.scaleWH" in files for name in self._slots}) > 1:
            raise ModelError("some layers hold a scaleWH and others do not. Download the checkpoint again.")
        layers = _Layers(files, self._slots, identifier, bits)
        self.codes = PublishedCodes(layers, bits, residual_scale)
        self._layer_of = {weight: name for name, slot in self._slots.items() for weight in slot.weights}
        others = [name for name in files if name.rpartition(".")[0] not in self._slots]
        self.names: Collection[str] = [*self._layer_of, *others]
        self._latest: tuple[str, dict[str, np.ndarray]] = "", {}  # pieces of a layer are read one after the other

    def read(self, name: str) -> torch.Tensor:
        """A dense tensor, float32.

        Raises
        ------
        ModelError
            If what it is made from does not fit together.
        """
        if name not in self._layer_of:
            return self._files[name].float()
        layer = self._layer_of[name]
        if self._latest[0] != layer:
            self._latest = "", {}
            dense = self.codes.layers[layer].dense(self._slots[layer], self.codes.bits, self.codes.residual_scale)
            self._latest = layer, dense
        return torch.from_numpy(self._latest[1][name].copy())


class _Layers(Mapping[str, LatticeLayer]):
    """The coded layers of a checkpoint, each read when it is asked for."""

    def __init__(self, files: TensorFiles, slots: Mapping[str, Slot], identifier: int, bits: int) -> None:
        self._files, self._slots, self._identifier, self._bits = files, slots, identifier, bits

    def __getitem__(self, name: str) -> LatticeLayer:
        return read_layer(self._files, name, self._slots[name], self._identifier, self._bits)

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)


def codebook_of(params: Any) -> tuple[int, int, float]:
    """Identifier of the codebook, bits and scale of residuals, from `quip_params` of a configuration.

    Raises
    ------
    ModelError
        If they ask for something that is not supported.
    """
    name = params.get("codebook") if isinstance(params, Mapping) else None
    if not isinstance(name, str) or name not in _CODEBOOKS:
        raise ModelError(
            f"this QuIP# codebook is not supported; supported: {', '.join(_CODEBOOKS)}. It may be an old version."
        )
    if params.get("lora_rank", 0) != 0:
        raise ModelError("QuIP# with a low-rank correction is not supported.")
    identifier, bits = _CODEBOOKS[name]
    version = 0 if bits == 3 else 1
    if params.get("codebook_version", version) != version:
        raise ModelError(f"version {params['codebook_version']!r:.20} of {name} is not supported, only {version}.")
    override = params.get("resid_scale_override", -1)
    if not isinstance(override, int | float) or not math.isfinite(override):
        raise ModelError("quip_params.resid_scale_override is not a number.")
    return identifier, bits, float(override) if override > 0 else _RESIDUAL_SCALES.get(bits, 1.0)


def read_layer(files: TensorFiles, name: str, slot: Slot, identifier: int, bits: int) -> LatticeLayer:
    """Read and unpack one published layer.

    Raises
    ------
    ModelError
        If a tensor is missing, does not fit, or is not finite, or its size has another Hadamard matrix in QuIP#.
    """
    check_sizes(name, slot)
    blocks, words = slot.inputs // SIZE, slot.inputs // 32
    width = {2: words, 3: words + words // 2, 4: 2 * words}[bits]
    packed = taken(files, f"{name}.Qidxs", (torch.int64,), (slot.outputs, width)).numpy()
    found = taken(files, f"{name}.codebook_id", (torch.int64,), ())
    if int(found) != identifier:
        raise ModelError(f"{name}.codebook_id is {int(found)}, not {identifier} as the configuration says.")
    residuals = None
    if bits == 3:
        residuals = packed[:, words:].copy().astype("<i8").view(np.uint8).reshape(slot.outputs, blocks)
    elif bits == 4:
        residuals = unpack_e8p(packed[:, words:])
    fused = len(slot.weights) > 1
    pieces = _floats(files, f"{name}.fuse_scales", (len(slot.weights),)) if fused else np.ones(1, dtype=np.float32)
    rescaled = f"{name}.scaleWH" in files
    return LatticeLayer(
        codes=unpack_e8p(packed[:, :words]),
        residuals=None if residuals is None else residuals.astype(np.uint16),
        inputs=_floats(files, f"{name}.SU", (slot.inputs,)),
        outputs=_floats(files, f"{name}.SV", (slot.outputs,)),
        scale=_floats(files, f"{name}.Wscale", ()),
        pieces=pieces,
        rescale=_floats(files, f"{name}.scaleWH", (slot.inputs,)) if rescaled else None,
    )


def unpack_e8p(packed: np.ndarray) -> np.ndarray:
    """Codes uint16 [m, n / 8] of int64 words [m, n / 32], which hold tiles of 16 rows and 8 codes.

    A word belongs to two rows and two codes of each: its lower half has their four upper bytes, its upper half their
    lower bytes, bits interleaved by four.
    """
    rows, words = packed.shape
    tiles = packed.reshape(rows // TILE_ROWS, words // 2, 8, 4).transpose(0, 2, 1, 3).reshape(rows // 2, 2 * words)
    halves = np.ascontiguousarray(tiles).astype("<i8").view("<u4").reshape(rows // 2, 2 * words, 2)
    entries, signs = halves[..., 0], halves[..., 1]
    codes = np.empty((rows // 2, 2, 2 * words, 2), dtype=np.uint16)
    for which in range(4):
        lower = np.zeros_like(signs)
        for bit in range(8):
            lower |= (signs >> np.uint32(4 * bit + which) & np.uint32(1)) << np.uint32(bit)
        upper = entries >> np.uint32(8 * which) & np.uint32(255)
        codes[:, which % 2, :, which // 2] = upper << np.uint32(8) | lower
    return codes.reshape(rows, 4 * words)


def _floats(files: TensorFiles, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = taken(files, name, _FLOATS, shape).float().numpy()
    if not np.all(np.isfinite(values)):
        raise ModelError(f"{name} holds values that are not finite. Download the checkpoint again.")
    return values
