"""Tensors of a model by name, read one at a time, so that a model may be larger than memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from tokenbounds.models.safetensors_files import SafetensorsFiles, Shape

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "U32": torch.uint32,
    "U64": torch.uint64,
}  # fmt: skip


class TensorSource(Protocol):
    """Where the tensors of a model come from: files, or a message that is decoded."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of every tensor by name, known without reading any values."""

    def read(self, name: str) -> torch.Tensor:
        """A tensor on the CPU, in the type that it is stored in; the caller may keep and change it.

        Raises
        ------
        TokenboundsError
            If there is none of this name, or it cannot be read.
        """


class SafetensorsSource:
    """The tensors of safetensors files."""

    def __init__(self, files: SafetensorsFiles) -> None:
        self._files, self.shapes = files, files.shapes

    def read(self, name: str) -> torch.Tensor:
        """See `TensorSource`."""
        raw, dtype = self._files.read(name), _DTYPES[self._files.dtype(name)]
        if raw.size == 0:  # torch cannot view no bytes as something else
            return torch.empty(self.shapes[name], dtype=dtype)
        return torch.from_numpy(raw).view(dtype).reshape(self.shapes[name])
