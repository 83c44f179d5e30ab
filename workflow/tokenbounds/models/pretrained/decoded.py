"""Quantized checkpoints, read where they are: a tensor's values are decoded from the files when it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from tokenbounds.errors import ModelError
from tokenbounds.models.build import coded_shapes
from tokenbounds.models.card import ModelCard
from tokenbounds.models.pretrained.filling import reading
from tokenbounds.models.pretrained.gguf_metadata import GgufFile
from tokenbounds.models.pretrained.gguf_values import GGUF, GgufValues
from tokenbounds.models.pretrained.packed import PackedValues
from tokenbounds.models.pretrained.quip_sharp import QUIP_SHARP, QuipValues
from tokenbounds.models.pretrained.tensor_files import TensorFiles
from tokenbounds.models.safetensors_files import Shape


class DecodedValues(Protocol):
    """The dense tensors that quantized files stand for."""

    @property
    def names(self) -> Collection[str]:
        """The names of all of them."""

    def read(self, name: str) -> torch.Tensor:
        """One of them, float32, its own copy; ModelError if it cannot be read, or what it is made of does not fit."""


class DecodedSource:
    """Coded parameters of a model whose files are quantized, decoded one at a time; a `TensorSource`.

    Parameters
    ----------
    values : DecodedValues
    tensors : mapping of str to str
        The name among `values` of every parameter.
    shapes : mapping of str to shape
        Of every parameter.
    """

    def __init__(self, values: DecodedValues, tensors: Mapping[str, str], shapes: Mapping[str, Shape]) -> None:
        self._values, self._tensors, self.shapes = values, tensors, shapes

    def read(self, name: str) -> torch.Tensor:
        """See `TensorSource`."""
        held = self._tensors.get(name)
        if held is None or held not in self._values.names:
            raise ModelError(f"the files hold no tensor {held or name}. Download or import the checkpoint again.")
        with reading(f"the tensor {held}"):  # whatever a decoder raises on damaged codes
            values = self._values.read(held)
        if tuple(values.shape) != tuple(self.shapes[name]):
            raise ModelError(
                f"the tensor {held} is {list(values.shape)}, but its configuration wants {list(self.shapes[name])}."
            )
        return values

    def read_floats(self, name: str) -> np.ndarray:
        """A parameter's values, float32, as `SafetensorsFiles` gives them."""
        values: np.ndarray = self.read(name).numpy()
        return values


def open_decoded(
    paths: Sequence[Path], quantization: Mapping[str, Any], tensors: Mapping[str, str], card: ModelCard
) -> DecodedSource:
    """The coded parameters of an imported checkpoint.

    Parameters
    ----------
    paths
        Its files.
    quantization
        What they hold: see `open_values`.
    tensors
        The tensor of every parameter.
    card

    Raises
    ------
    ModelError
        If a file is damaged, or its quantization is not read.
    """
    return DecodedSource(open_values(paths, quantization, card), tensors, coded_shapes(card))


def open_values(paths: Sequence[Path], quantization: Mapping[str, Any], card: ModelCard) -> DecodedValues:
    """The dense tensors of files.

    Parameters
    ----------
    paths
        A GGUF file, or the safetensors files of a checkpoint.
    quantization
        `quant_method` is gguf, quip_sharp (with the checkpoint's `quip_params`), or what the checkpoint's
        `quantization_config` has.
    card
        Of the model.

    Raises
    ------
    ModelError
        If a file is damaged, or the quantization is not read.
    """
    method = quantization.get("quant_method")
    if method == GGUF:
        return GgufValues(GgufFile.open(paths[0]))
    files = TensorFiles(paths)
    if method == QUIP_SHARP:
        return QuipValues(files, quantization, coded_shapes(card))
    return PackedValues(files, quantization, transposed=card.family == "gpt2")
