"""Quantized Hugging Face checkpoints as dense values: GPTQ, AWQ and bitsandbytes, decoded here, without their kernels.

All three keep integers and scales. Their values are computed in float32, which holds the products of 16-bit scales and
small integers exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch

from tokenbounds.errors import ModelError
from tokenbounds.files import parse_json
from tokenbounds.models.pretrained.tensor_files import TensorFiles, taken

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_INT32 = (torch.int32,)
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # which four bits of a word hold each of its eight columns
_STATE = ".quant_state.bitsandbytes__"
_PARTS = {
    "gptq": (".qweight", ".qzeros", ".scales", ".g_idx"),
    "awq": (".qweight", ".qzeros", ".scales"),
    "bitsandbytes": (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format"),
}
METHODS = tuple(_PARTS)
_ROWS_AT_ONCE = 1024


class PackedValues:
    """The dense tensors that a quantized checkpoint represents, each decoded when it is read.

    Parameters
    ----------
    files : TensorFiles
    settings : mapping
        `quantization_config` of the checkpoint's configuration.
    transposed : bool
        Whether the model keeps its linear weights as [inputs, outputs] (GPT-2).

    Raises
    ------
    ModelError
        If the method is not one of `METHODS`, or its settings are not supported.
    """

    def __init__(self, files: TensorFiles, settings: Mapping[str, Any], transposed: bool) -> None:
        method = settings.get("quant_method")
        if method not in METHODS:
            raise ModelError(
                f"its quantization {method!r:.40} is not supported; supported: {', '.join(METHODS)} and QuIP#."
            )
        self._files, self._transposed = files, transposed
        self._decode = _checked_reader(str(method), settings)
        self._layers: dict[str, str | None] = {}  # by tensor: the layer whose integers it is made from
        for name in files:
            layer = _coded_layer(str(method), files, name)
            if layer is not None:
                self._layers[f"{layer}.weight"] = layer
            elif not name.endswith(_PARTS[str(method)]) and _STATE not in name:
                self._layers[name] = None

    @property
    def names(self) -> Collection[str]:
        """The names of the dense tensors."""
        return self._layers.keys()

    def read(self, name: str) -> torch.Tensor:
        """A dense tensor, float32.

        Raises
        ------
        ModelError
            If what it is made from does not fit together.
        """
        layer = self._layers[name]
        if layer is None:
            return self._files[name].float()
        value = self._decode(self._files, layer)
        return value.T.contiguous() if self._transposed and layer != "lm_head" else value


def _coded_layer(method: str, files: TensorFiles, name: str) -> str | None:
    """The layer whose integers a tensor holds; None for all other tensors."""
    if method != "bitsandbytes":
        return name.removesuffix(".qweight") if name.endswith(".qweight") else None
    layer = name.removesuffix(".weight")
    return layer if name != layer and (f"{layer}.SCB" in files or _four_bit_state(files, name)) else None


def _checked_reader(method: str, settings: Mapping[str, Any]) -> Callable[[TensorFiles, str], torch.Tensor]:
    """The function that reads one layer, once the settings are known to be supported."""
    if method == "bitsandbytes":
        return _read_bitsandbytes
    bits, group = settings.get("bits"), settings.get("group_size", -1)
    if method == "gptq":
        if bits not in (2, 3, 4, 8):
            raise ModelError(f"GPTQ with {bits!r:.20} bits is not supported; supported: 2, 3, 4 and 8.")
        offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
        return lambda files, layer: _read_gptq(files, layer, bits, offset)
    version = str(settings.get("version", "gemm")).lower()
    if bits != 4 or version != "gemm" or not settings.get("zero_point", True) or not isinstance(group, int):
        raise ModelError("of AWQ only the version 'gemm' with 4 bits and zero points is supported.")
    return _read_awq


def _read_gptq(files: TensorFiles, layer: str, bits: int, offset: int) -> torch.Tensor:
    """W = scale of the group · (integer − zero point), float32 [outputs, inputs].

    Integers are a bit stream down the input dimension, zero points one along the outputs. The first format keeps zero
    points less one, modulo their range.
    """
    scales = taken(files, f"{layer}.scales", _FLOATS, (None, None)).float()
    groups, outputs = scales.shape
    words = taken(files, f"{layer}.qweight", _INT32, (None, outputs))
    inputs = words.shape[0] * 32 // bits
    zeros = taken(files, f"{layer}.qzeros", _INT32, (groups, -(-outputs * bits // 32)))
    points = (unpack_stream(zeros.numpy(), bits)[:, :outputs] + offset) & ((1 << bits) - 1)  # [groups, outputs]
    if f"{layer}.g_idx" in files:
        group_of = taken(files, f"{layer}.g_idx", _INT32, (inputs,)).long()
    else:
        group_of = torch.arange(inputs) // -(-inputs // groups)  # [inputs]
    if inputs and not 0 <= int(group_of.min()) <= int(group_of.max()) < groups:
        raise ModelError(f"{layer}.g_idx names groups beyond the {groups} that there are.")
    values = torch.empty(outputs, inputs)
    for first in range(0, outputs, _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        codes = torch.from_numpy(unpack_stream(words.numpy().T[rows], bits))  # [rows, inputs]
        centred = codes - torch.from_numpy(points).T[rows][:, group_of]
        values[rows] = centred.float() * scales.T[rows][:, group_of]
    return values


def _read_awq(files: TensorFiles, layer: str) -> torch.Tensor:
    """W = scale of the group · (integer − zero point), float32 [outputs, inputs]; words hold eight outputs each."""
    scales = taken(files, f"{layer}.scales", _FLOATS, (None, None)).float()
    groups, outputs = scales.shape
    words = taken(files, f"{layer}.qweight", _INT32, (None, outputs // 8))
    zeros = taken(files, f"{layer}.qzeros", _INT32, (groups, outputs // 8))
    if outputs % 8 or groups == 0 or words.shape[0] % groups:
        raise ModelError(f"{layer}: {words.shape[0]} inputs and {outputs} outputs do not fit {groups} groups.")
    points = torch.from_numpy(_unpack_columns(zeros.numpy()))  # [groups, outputs]
    group_of = torch.arange(words.shape[0]) // (words.shape[0] // groups)
    values = torch.empty(outputs, words.shape[0])
    for first in range(0, words.shape[0], _ROWS_AT_ONCE):
        inputs = slice(first, first + _ROWS_AT_ONCE)
        codes = torch.from_numpy(_unpack_columns(words[inputs].numpy()))  # [some inputs, outputs]
        values[:, inputs] = ((codes - points[group_of[inputs]]).float() * scales[group_of[inputs]]).T
    return values


def unpack_stream(words: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned integers of `bits` bits packed end to end in rows of 32-bit words, lowest bits first; int32."""
    rows = np.ascontiguousarray(words).astype("<u4").view(np.uint8).reshape(len(words), 4 * words.shape[1])
    count = 32 * words.shape[1] // bits
    stream = np.unpackbits(rows, axis=1, bitorder="little")[:, : count * bits]  # [rows, bits], of every integer in turn
    values = np.zeros((len(words), count), dtype=np.int32)
    for bit in range(bits):
        values |= stream[:, bit::bits].astype(np.int32) << bit
    return values


def _unpack_columns(words: np.ndarray) -> np.ndarray:
    shifts = 4 * np.array(_AWQ_ORDER, dtype=np.uint32)
    values = (words.astype(np.uint32)[:, :, None] >> shifts) & np.uint32(15)
    return values.reshape(len(words), -1).astype(np.int32)


def _read_bitsandbytes(files: TensorFiles, layer: str) -> torch.Tensor:
    name = f"{layer}.weight"
    state = _four_bit_state(files, name)
    if state is not None:
        return _read_four_bits(files, name, _parse_state(files, state))
    codes = taken(files, name, (torch.int8,), (None, None))
    rows = taken(files, f"{layer}.SCB", (torch.float32,), (codes.shape[0],))
    return codes.float() * (rows / 127)[:, None]


def _four_bit_state(files: TensorFiles, name: str) -> str | None:
    found = (f"{name}{_STATE}{kind}" for kind in ("nf4", "fp4"))
    return next((state for state in found if state in files), None)


def _parse_state(files: TensorFiles, name: str) -> dict[str, Any]:
    """The JSON object that a tensor of bytes holds."""
    try:
        state = parse_json(bytes(taken(files, name, (torch.uint8,), (None,)).numpy().tobytes()))
    except ValueError as error:
        raise ModelError(f"{name} holds no JSON ({error}). Download the checkpoint again.") from error
    shape = state.get("shape") if isinstance(state, dict) else None
    sizes = (*shape, state.get("blocksize")) if isinstance(shape, list) and len(shape) == 2 else (0,)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ModelError(f"{name} names no shape of a matrix, or no block size.")
    return dict(state)


def _read_four_bits(files: TensorFiles, name: str, state: dict[str, Any]) -> torch.Tensor:
    """Values of a map of sixteen, two per byte, the first in the upper half, times the block's greatest magnitude."""
    rows, cols = state["shape"]
    blocks = -(-rows * cols // state["blocksize"])
    packed = taken(files, name, (torch.uint8,), (-(-rows * cols // 2), 1)).flatten()
    levels = taken(files, f"{name}.quant_map", (torch.float32,), (16,))
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[: rows * cols]
    scales = _block_scales(files, name, state, blocks)
    spread = scales.repeat_interleave(state["blocksize"])[: rows * cols]
    return (levels[codes.long()] * spread).reshape(rows, cols)


def _block_scales(files: TensorFiles, name: str, state: dict[str, Any], blocks: int) -> torch.Tensor:
    """Greatest magnitudes of the blocks, which may be quantized themselves."""
    if f"{name}.nested_absmax" not in files:
        return taken(files, f"{name}.absmax", (torch.float32,), (blocks,))
    size, offset = state.get("nested_blocksize"), state.get("nested_offset")
    if type(size) is not int or size < 1 or not isinstance(offset, int | float):
        raise ModelError(f"{name}: the quantized scales name no block size or offset.")
    codes = taken(files, f"{name}.absmax", (torch.uint8,), (blocks,)).long()
    levels = taken(files, f"{name}.nested_quant_map", (torch.float32,), (256,))
    scales = taken(files, f"{name}.nested_absmax", (torch.float32,), (-(-blocks // size),))
    return levels[codes] * scales.repeat_interleave(size)[:blocks] + float(offset)
