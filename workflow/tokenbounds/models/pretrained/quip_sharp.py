"""Published QuIP# checkpoints: the codes, scales and signs of each layer, read from files, and kept next to a model.

References
----------
The checkpoints `relaxml/*-E8P-2Bit`, `*-E8PRVQ-3Bit` and `*-E8PRVQ-4Bit`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tokenbounds.errors import ModelError
from tokenbounds.files import atomic_path
from tokenbounds.models.checkpoint import seal_tensors
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
from tokenbounds.seals import BLANK_SEAL, SEAL_KEY, sha256_of_sealed

FAMILIES = ("llama", "mistral")
CODES_FILE = "codes.safetensors"
_CODEBOOKS = {"E8P12": (7, 2), "E8P12RVQ3B": (18, 3), "E8P12RVQ4B": (17, 4)}
_RESIDUAL_SCALES = {3: 2.04, 4: 3.45}
_FLOATS = (torch.float16, torch.float32)


def read_quip_sharp(
    files: TensorFiles, params: Any, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[PublishedCodes, dict[str, torch.Tensor]]:
    """Read a published checkpoint.

    Parameters
    ----------
    files : TensorFiles
    params
        `quip_params` of its configuration.
    shapes : mapping of str to tuple of int
        Of the parameters of the dense model.

    Returns
    -------
    codes : PublishedCodes
    others : dict of str to tensor
        Everything that is not coded: embeddings, norms, head.

    Raises
    ------
    ModelError
        If the format is not one of those read, or a tensor does not fit it.
    """
    identifier, bits, residual_scale = codebook_of(params)
    slots = slots_of(shapes)
    layers = {name: read_layer(files, name, slot, identifier, bits) for name, slot in slots.items()}
    if len({layer.rescale is None for layer in layers.values()}) > 1:
        raise ModelError("some layers hold a scaleWH and others do not. Download the checkpoint again.")
    others = {name: files[name] for name in files if name.rpartition(".")[0] not in slots}
    return PublishedCodes(layers, bits, residual_scale), others


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


def save_codes(directory: Path, codes: PublishedCodes | None) -> None:
    """Keep the codes of an imported checkpoint next to its dense values, or remove those of an earlier import."""
    path = directory / CODES_FILE
    if codes is None:
        path.unlink(missing_ok=True)
        return
    tensors = {
        f"{name}.{key}": np.ascontiguousarray(value)
        for name, layer in codes.layers.items()
        for key, value in vars(layer).items()
        if value is not None
    }
    settings = {"bits": str(codes.bits), "residual_scale": repr(codes.residual_scale)}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={**settings, SEAL_KEY: BLANK_SEAL})
            seal_tensors(temporary)
        except SafetensorError as error:
            raise ModelError(f"cannot write {path}: {error}. Free space, or choose another folder.") from error


def load_codes(directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> PublishedCodes:
    """Read what `save_codes` kept for a model with parameters of these shapes.

    Raises
    ------
    ModelError
        If there is nothing, or it does not fit the model.
    """
    path = directory / CODES_FILE
    if not path.is_file():
        raise ModelError(f"{directory} holds no codes: its model was not imported from a QuIP# checkpoint.")
    sha256_of_sealed(path, ModelError, "Import the checkpoint again.")
    try:
        with safe_open(path, framework="np") as file:
            settings = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        layers = {name: _layer_from(name, tensors) for name in slots_of(shapes)}
        return PublishedCodes(layers, int(settings["bits"]), float(settings["residual_scale"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}). Import the checkpoint again.") from error


def _layer_from(name: str, tensors: Mapping[str, np.ndarray]) -> LatticeLayer:
    fields = LatticeLayer.__dataclass_fields__
    optional = ("residuals", "rescale")
    found = {key: tensors.get(f"{name}.{key}") if key in optional else tensors[f"{name}.{key}"] for key in fields}
    return LatticeLayer(**cast(dict[str, Any], found))


def _floats(files: TensorFiles, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = taken(files, name, _FLOATS, shape).float().numpy()
    if not np.all(np.isfinite(values)):
        raise ModelError(f"{name} holds values that are not finite. Download the checkpoint again.")
    return values
