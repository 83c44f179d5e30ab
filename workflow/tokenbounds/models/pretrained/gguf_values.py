"""The values of a GGUF file, read tensor by tensor and laid out as transformers lays out the model's parameters.

llama.cpp interleaves the halves of each head of queries and keys where a LLaMA's rotary positions expect them one after
the other, and stores GPT-2's matrices transposed.
"""

from __future__ import annotations

import numpy as np
import torch

from tokenbounds.errors import ModelError
from tokenbounds.models.pretrained.gguf_metadata import GgufFile, GgufTensor

GGUF = "gguf"
_VALUES_AT_ONCE = 1 << 22
_TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")  # of gpt2


class GgufValues:
    """The dense tensors that a file represents.

    Parameters
    ----------
    file : GgufFile

    Attributes
    ----------
    names
        Of the parameters, as transformers calls them.

    Raises
    ------
    ModelError
        If a tensor is none of the architecture's, or the file does not say how many heads there are.
    """

    def __init__(self, file: GgufFile) -> None:
        self._file, config = file, file.config()
        self._heads = {
            ".attn_q.": config.get("num_attention_heads", 0),
            ".attn_k.": config.get("num_key_value_heads", 0),
        }
        self._held = file.parameters()
        self.names = self._held.keys()

    def read(self, name: str) -> torch.Tensor:
        """A dense tensor, float32.

        Raises
        ------
        ModelError
            If the file cannot be read, has become shorter, or has a type that is not understood.
        """
        held = self._held[name]
        values = _dequantize(self._file, held)
        if self._file.architecture == "gpt2" and held.endswith(_TRANSPOSED):
            values = values.T
        heads = next((heads for part, heads in self._heads.items() if part in held), 0)
        if self._file.architecture == "llama" and heads:
            if len(values) % (2 * heads):
                raise ModelError(f"{self._file.path}: {held} has {len(values)} rows, which are not {heads} heads.")
            apart = values.reshape(heads, -1, 2, *values.shape[1:])
            values = apart.swapaxes(1, 2).reshape(values.shape)
        return torch.from_numpy(np.ascontiguousarray(values))


def _dequantize(file: GgufFile, name: str) -> np.ndarray:
    """Float32 values of a tensor of the file, some rows at a time; its bytes are read, and never mapped."""
    from gguf import dequantize

    stored = file.tensors[name]
    raw = _read(file, name, stored).reshape(stored.shape)
    if raw.ndim < 2:
        return np.asarray(dequantize(raw, stored.kind), dtype=np.float32).copy()
    rows = max(_VALUES_AT_ONCE // max(raw[0].size, 1), 1)
    parts = [raw[first : first + rows] for first in range(0, len(raw), rows)]
    values = np.empty(0, dtype=np.float32)
    for number, part in enumerate(parts):
        found = np.asarray(dequantize(part, stored.kind), dtype=np.float32)
        if number == 0:
            values = np.empty((len(raw), *found.shape[1:]), dtype=np.float32)
        values[number * rows : number * rows + len(found)] = found
    return values


def _read(file: GgufFile, name: str, stored: GgufTensor) -> np.ndarray:
    try:
        raw = np.fromfile(file.path, dtype=stored.dtype, count=stored.items, offset=stored.begin)
    except OSError as error:
        raise ModelError(f"cannot read {file.path}: {error.strerror or error}.") from error
    if raw.size != stored.items:
        raise ModelError(f"{file.path} is cut off inside {name}. Download it again.")
    return raw
