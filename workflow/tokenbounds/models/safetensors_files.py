"""Safetensors files read one tensor at a time: what is in memory is the tensor that was asked for and nothing else.

Files are read with plain reads, never mapped, since a map counts against the limit of a process. torch is not imported
here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenbounds.errors import ModelError
from tokenbounds.files import check_no_pointer, parse_json

Shape = tuple[int, ...]

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


class _Place(NamedTuple):
    """Where a tensor lies."""

    path: Path
    dtype: str
    shape: Shape
    begin: int  # in bytes from the start of the file
    size_bytes: int


class SafetensorsFiles:
    """The tensors of some safetensors files, by name.

    Parameters
    ----------
    places : mapping of str to place
        See `open`.
    """

    def __init__(self, places: Mapping[str, _Place]) -> None:
        self._places = dict(places)

    @classmethod
    def open(cls, paths: Iterable[Path]) -> SafetensorsFiles:
        """The tensors of these files, each tensor in one of them.

        Raises
        ------
        ModelError
            If a file is missing, damaged or a Git LFS pointer, or two contain a tensor of the same name.
        """
        places: dict[str, _Place] = {}
        for path in paths:
            for name, place in _read_places(path).items():
                if name in places:
                    raise ModelError(f"{path} and {places[name].path} both hold the tensor {name}. Remove one.")
                places[name] = place
        return cls(places)

    def select(self, names: Mapping[str, str]) -> SafetensorsFiles:
        """Some of the tensors under other names: `names` has those in the files by the new ones.

        Raises
        ------
        ModelError
            If there is no such tensor.
        """
        return SafetensorsFiles({name: self._place(held) for name, held in names.items()})

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of every tensor."""
        return {name: place.shape for name, place in self._places.items()}

    def dtype(self, name: str) -> str:
        """The type of a tensor, as the format calls it, such as BF16."""
        return self._place(name).dtype

    def read(self, name: str) -> np.ndarray:
        """The bytes of a tensor, uint8 [bytes], its own copy.

        Raises
        ------
        ModelError
            If there is none of this name, or it cannot be read.
        """
        place = self._place(name)
        raw = np.empty(place.size_bytes, dtype=np.uint8)
        try:
            with place.path.open("rb", buffering=0) as file:
                file.seek(place.begin)
                done = 0
                while done < raw.size:
                    if not (count := file.readinto(raw[done:].data)):
                        raise ModelError(f"{place.path} is cut off inside {name}. Download or import it again.")
                    done += count
        except OSError as error:
            raise ModelError(f"cannot read {place.path}: {error.strerror or error}.") from error
        return raw

    def read_floats(self, name: str) -> np.ndarray:
        """A tensor of floating-point numbers as float32, in its shape.

        Raises
        ------
        ModelError
            If there is none of this name, it cannot be read, or holds other numbers.
        """
        place = self._place(name)
        if place.dtype not in _FLOATS:
            raise ModelError(f"{place.path}: {name} is {place.dtype}, not floating-point.")
        values = self.read(name).view(_FLOATS[place.dtype])
        if place.dtype == "BF16":  # the upper half of a float32
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return values.astype(np.float32, copy=False).reshape(place.shape)

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise ModelError(f"the files hold no tensor {name}. Download or import the checkpoint again.")
        return self._places[name]


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
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        item_bytes = _ITEM_BYTES[dtype]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: the entry of {name!r:.80} cannot be read: {json.dumps(entry):.80}.") from error
    if not whole or end > size or end - begin != math.prod(shape) * item_bytes:
        raise ModelError(f"{path} cannot be read as safetensors: {name!r:.80} does not lie inside the file.")
    return _Place(path, dtype, shape, start + begin, end - begin)
