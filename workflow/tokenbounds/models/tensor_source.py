"""Tensors of a model by name, read one at a time, so that a model may be larger than memory.

A safetensors file is read with plain reads, never mapped: what is in memory is the tensor that was asked for and
nothing else, under whatever limit a process runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from tokenbounds.errors import ModelError
from tokenbounds.files import check_no_pointer, parse_json

Shape = tuple[int, ...]

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
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


class _Place(NamedTuple):
    """Where a tensor lies."""

    path: Path
    dtype: torch.dtype
    shape: Shape
    begin: int  # in bytes from the start of the file
    size_bytes: int


class SafetensorsSource:
    """The tensors of some safetensors files, each tensor in one of them.

    Raises
    ------
    ModelError
        If a file is missing, damaged or a Git LFS pointer, or two contain a tensor of the same name.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._places: dict[str, _Place] = {}
        for path in paths:
            for name, place in _read_places(path).items():
                if name in self._places:
                    raise ModelError(f"{path} and {self._places[name].path} both hold the tensor {name}. Remove one.")
                self._places[name] = place

    @property
    def shapes(self) -> dict[str, Shape]:
        """See `TensorSource`."""
        return {name: place.shape for name, place in self._places.items()}

    def dtype(self, name: str) -> torch.dtype:
        """The type that a tensor is stored in."""
        return self._places[name].dtype

    def path(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self._places[name].path

    def read(self, name: str) -> torch.Tensor:
        """See `TensorSource`."""
        if name not in self._places:
            raise ModelError(f"the files hold no tensor {name}. Download or import the checkpoint again.")
        place = self._places[name]
        raw = torch.empty(place.size_bytes, dtype=torch.uint8)
        try:
            with place.path.open("rb", buffering=0) as file:
                file.seek(place.begin)
                view, done = raw.numpy().data, 0
                while done < len(view):
                    if not (count := file.readinto(view[done:])):
                        raise ModelError(f"{place.path} is cut off inside {name}. Download or import it again.")
                    done += count
        except OSError as error:
            raise ModelError(f"cannot read {place.path}: {error.strerror or error}.") from error
        return raw.view(place.dtype).reshape(place.shape)


def _read_places(path: Path) -> dict[str, _Place]:
    """Where each tensor of a file lies, from its header, every entry of which is checked against the file's size."""
    check_no_pointer(path, ModelError)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER_BYTES:
                raise ModelError(f"{path} is not a safetensors file. Download or make it again.")
            header = parse_json(file.read(length))
        size = path.stat().st_size - 8 - length
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}. Download or make it again.") from error
    if not isinstance(header, dict) or size < 0:
        raise ModelError(f"{path} cannot be read as safetensors: its header is damaged. Download or make it again.")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    places = {name: _place(path, name, entry, 8 + length, size) for name, entry in entries.items()}
    # As in the format's own reader: tensors fill the file without gaps or overlaps.
    end = 8 + length
    for place in sorted(places.values(), key=lambda place: (place.begin, place.size_bytes)):
        if place.begin != end:
            raise ModelError(f"{path} cannot be read as safetensors: its tensors overlap, or leave gaps.")
        end += place.size_bytes
    if end != 8 + length + size:
        raise ModelError(f"{path} cannot be read as safetensors: it is cut off, or longer than its header says.")
    return places


def _place(path: Path, name: str, entry: Any, start: int, size: int) -> _Place:
    """One entry of a header whose tensors begin at byte `start` of the file and take `size` bytes in all."""
    try:
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: the entry of {name!r:.80} cannot be read: {json.dumps(entry):.80}.") from error
    if not whole or end > size or end - begin != math.prod(shape) * dtype.itemsize:
        raise ModelError(f"{path} cannot be read as safetensors: {name!r:.80} does not lie inside the file.")
    return _Place(path, dtype, shape, start + begin, end - begin)
