"""Tensors of a folder of safetensors files, read one at a time from whichever shard contains them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tokenbounds.errors import ModelError
from tokenbounds.files import check_no_pointer, read_json

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class TensorFiles:
    """All tensors of a folder's safetensors files, by name.

    The files are those that transformers reads: `model.safetensors`, otherwise those that the index names; with
    neither, all that there are.

    Raises
    ------
    ModelError
        If a file is missing, damaged or a Git LFS pointer, or two contain a tensor of the same name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file_of: dict[str, Path] = {}
        for path in _files_of(folder):
            check_no_pointer(path, ModelError)
            for name in self._names(path):
                if self._file_of.setdefault(name, path) != path:
                    raise ModelError(f"{path} and {self._file_of[name]} both hold the tensor {name}. Remove one.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def __getitem__(self, name: str) -> torch.Tensor:
        """A tensor.

        Raises
        ------
        ModelError
            If there is none of this name, or its file is damaged.
        """
        if name not in self._file_of:
            raise ModelError(f"{self._folder} holds no tensor {name}. Download the checkpoint again.")
        try:
            with safe_open(self._file_of[name], framework="pt") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{self._file_of[name]} cannot be read as safetensors: {error}.") from error

    def _names(self, path: Path) -> list[str]:
        try:
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read as safetensors: {error}. Download it again.") from error


def _files_of(folder: Path) -> list[Path]:
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    if not (folder / _INDEX).is_file():
        return sorted(folder.glob("*.safetensors"))
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
