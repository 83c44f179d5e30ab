"""Tensors of a `torch.save` archive, read as data: nothing is unpickled, imported or called.

Such an archive is a zip file: raw little-endian storages, and a pickle program that says how tensors are laid out in
them. The program of a state dictionary uses two dozen of pickle's instructions, three of which name something. Here
those instructions are read one after the other and turned into plain dictionaries and records; any other instruction or
name is an error. So a hostile archive can at worst be refused.
"""

from __future__ import annotations

import itertools
import math
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tokenbounds.errors import ModelError

_MAX_PROGRAM_BYTES = 1 << 24
_MAX_DIMENSIONS = 8
_MAX_VALUES = 1 << 18  # of the program, all together
_MAX_SHARED = 4  # times that an archive's bytes may be used
_STORAGES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_MAPPING, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_NAMES = {_MAPPING, _TENSOR, *(f"torch {name}" for name in _STORAGES)}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """Something that the program names; it is only compared, never looked up."""

    text: str


@dataclass(frozen=True)
class _Storage:
    """A run of numbers in the archive: the name of its file, its numpy type, its length."""

    key: str
    dtype: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _NotTensors(Exception):
    """The program holds something other than a dictionary of tensors."""


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a state dictionary written by `torch.save`, floating-point ones as float32.

    Raises
    ------
    ModelError
        If the file is not such an archive, is damaged, or holds anything but named tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root, program = _read_program(archive)
            tensors = dict(_named_tensors(_run(program)))
            # Tied weights share a storage. A few bytes that are shared without end would fill the memory.
            wanted = sum(
                math.prod(tensor.shape) * np.dtype(tensor.storage.dtype).itemsize for tensor in tensors.values()
            )
            if wanted > _MAX_SHARED * path.stat().st_size:
                raise _NotTensors(f"tensors of {wanted:,} bytes")
            found: dict[str, torch.Tensor] = {}
            # Each storage is read once, whatever shares it.
            names = sorted(tensors, key=lambda name: tensors[name].storage.key)
            for storage, group in itertools.groupby(names, key=lambda name: tensors[name].storage):
                values = _read_storage(archive, root, storage)
                found |= {name: _view(values, tensors[name]) for name in group}
            return {name: found[name] for name in tensors}
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be read as a torch archive: {error}. Install the package again.") from error
    except (_NotTensors, ValueError, IndexError, KeyError, TypeError) as error:
        raise ModelError(f"{path} holds more than named tensors ({error}), so it is not read.") from error


def _read_program(archive: zipfile.ZipFile) -> tuple[str, bytes]:
    programs = [
        info for info in archive.infolist() if info.filename.count("/") == 1 and info.filename.endswith("/data.pkl")
    ]
    if len(programs) != 1 or programs[0].file_size > _MAX_PROGRAM_BYTES:
        raise _NotTensors("its description is missing or too large")
    return programs[0].filename.partition("/")[0], archive.read(programs[0])


def _named_tensors(found: Any) -> Iterator[tuple[str, _Tensor]]:
    if not isinstance(found, dict):
        raise _NotTensors("no dictionary")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise _NotTensors(f"the entry {name!r:.40}")
        yield name, value


def _read_storage(archive: zipfile.ZipFile, root: str, storage: _Storage) -> npt.NDArray[Any]:
    info = archive.getinfo(f"{root}/data/{storage.key}")
    dtype = np.dtype(storage.dtype)
    sizes = {info.file_size, info.compress_size, storage.size * dtype.itemsize}
    if info.compress_type != zipfile.ZIP_STORED or len(sizes) > 1:
        raise _NotTensors(f"the storage {storage.key!r:.40}")
    return np.frombuffer(archive.read(info), dtype)


def _view(values: npt.NDArray[Any], tensor: _Tensor) -> torch.Tensor:
    """A tensor that a storage holds, as a copy."""
    contiguous = tuple(math.prod(tensor.shape[place + 1 :]) for place in range(len(tensor.shape)))
    size = math.prod(tensor.shape)
    if tensor.stride != contiguous or tensor.offset + size > len(values):
        raise _NotTensors(f"a view of storage {tensor.storage.key!r:.40}")
    values = values[tensor.offset : tensor.offset + size].reshape(tensor.shape)
    return torch.from_numpy(values.astype(np.float32) if values.dtype.kind == "f" else values.copy())


def _run(program: bytes) -> Any:
    """Follow the program's instructions on a stack of plain values."""
    stack: list[Any] = []
    memory: dict[Any, Any] = {}
    for operation, argument, _ in pickletools.genops(program):
        name = operation.name
        if len(stack) + len(memory) > _MAX_VALUES:
            raise _NotTensors("too many values")
        if name in ("BINPUT", "LONG_BINPUT"):
            memory[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memory[argument])
        elif name in _PUSHED:
            stack.append(argument)
        elif name in _STEPS:
            _STEPS[name](stack, argument)
        elif name == "STOP":
            break
        elif name != "PROTO":
            raise _NotTensors(f"the instruction {name}")
    return stack.pop()


_PUSHED = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1")


def _push_name(stack: list[Any], argument: Any) -> None:
    if argument not in _NAMES:
        raise _NotTensors(f"the name {argument!r:.60}")
    stack.append(_Name(argument))


def _push_storage(stack: list[Any], _: Any) -> None:
    kind, name, key, _device, size = stack.pop()
    if kind != "storage" or not isinstance(name, _Name) or not isinstance(key, str) or not _is_count(size):
        raise _NotTensors("a storage of another kind")
    stack.append(_Storage(key, _STORAGES[name.text.removeprefix("torch ")], size))


def _make(stack: list[Any], _: Any) -> None:
    """What the program would call: an empty mapping, or a tensor; both become records here."""
    arguments, name = stack.pop(), stack.pop()
    if name == _Name(_MAPPING) and arguments == ():
        stack.append({})
    elif name == _Name(_TENSOR):
        storage, offset, shape, stride = arguments[:4]
        numbers = (offset, *shape, *stride)
        if not isinstance(storage, _Storage) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_count, numbers)):
            raise _NotTensors("a tensor of another kind")
        stack.append(_Tensor(storage, offset, shape, stride))
    else:
        raise _NotTensors("a call")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
        if place < 0:
            raise _NotTensors("a missing mark")
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _set_items(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], dict) or len(items) % 2 or any(not isinstance(key, str) for key in items[::2]):
        raise _NotTensors("a mapping with keys that are not text")
    stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _set_item(stack: list[Any], _: Any) -> None:
    value, key = stack.pop(), stack.pop()
    _set_items(stack, [key, value])


def _tuple_of(size: int) -> Callable[[list[Any], Any], None]:
    def step(stack: list[Any], _: Any) -> None:
        if size > len(stack):
            raise _NotTensors("a missing value")
        items = tuple(stack[len(stack) - size :])
        del stack[len(stack) - size :]
        stack.append(items)

    return step


_STEPS: dict[str, Callable[[list[Any], Any], None]] = {
    "MARK": lambda stack, _: stack.append(_MARK),
    "NEWTRUE": lambda stack, _: stack.append(True),
    "NEWFALSE": lambda stack, _: stack.append(False),
    "NONE": lambda stack, _: stack.append(None),
    "EMPTY_DICT": lambda stack, _: stack.append({}),
    "EMPTY_TUPLE": _tuple_of(0),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda stack, _: stack.append(tuple(_pop_to_mark(stack))),
    "GLOBAL": _push_name,
    "BINPERSID": _push_storage,
    "REDUCE": _make,
    "SETITEM": _set_item,
    "SETITEMS": lambda stack, _: _set_items(stack, _pop_to_mark(stack)),
    # The state of a dictionary is metadata of torch's modules, which nothing here needs.
    "BUILD": lambda stack, _: stack.pop(),
}
