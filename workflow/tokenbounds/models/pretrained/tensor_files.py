"""Tensors of a folder of safetensors files, read one at a time from whichever shard contains them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tokenbounds.errors import ModelError
from tokenbounds.files import read_json
from tokenbounds.models.safetensors_files import SafetensorsFiles
from tokenbounds.models.tensor_source import SafetensorsSource

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class TensorFiles:
    """All tensors of the safetensors files of a folder, by name.

    Raises
    ------
    ModelError
        If a file is missing, damaged or a Git LFS pointer, or two contain a tensor of the same name.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._folder = paths[0].parent
        self._source = SafetensorsSource(SafetensorsFiles.open(paths))

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.shapes)

    def __contains__(self, name: str) -> bool:
        return name in self._source.shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        """A tensor.

        Raises
        ------
        ModelError
            If there is none of this name, or its file is damaged.
        """
        if name not in self:
            raise ModelError(f"{self._folder} holds no tensor {name}. Download the checkpoint again.")
        return self._source.read(name)


def files_of(folder: Path) -> list[Path]:
    """The files of a folder's tensors, as transformers chooses them.

    `model.safetensors`, otherwise those that the index names; with neither, all that there are.

    Raises
    ------
    ModelError
        If the index is damaged, or there are none.
    """
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    if not (folder / _INDEX).is_file():
        if not (found := sorted(folder.glob("*.safetensors"))):
            raise ModelError(f"{folder} has no *.safetensors. Download the checkpoint again.")
        return found
    index = read_json(folder / _INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{folder / _INDEX} has no 'weight_map'. Download it again.")
    return sorted({folder / Path(name).name for name in names.values()})


def taken(
    files: TensorFiles, name: str, dtypes: tuple[torch.dtype, ...], shape: tuple[int | None, ...]
) -> torch.Tensor:
    """A tensor whose type and shape are as expected; None means any size.

    Raises
    ------
    ModelError
        If they are not; the tensor is named.
    """
    tensor = files[name]
    fits = len(tensor.shape) == len(shape)
    fits = fits and all(want in (None, size) for want, size in zip(shape, tensor.shape, strict=True))
    if tensor.dtype not in dtypes or not fits:
        wanted = " × ".join("any" if size is None else str(size) for size in shape) or "a scalar"
        raise ModelError(f"{name} is {tensor.dtype} {list(tensor.shape)}; its format wants {dtypes[0]}, {wanted}.")
    return tensor
