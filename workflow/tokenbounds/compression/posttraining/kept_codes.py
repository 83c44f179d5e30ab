"""Codes of matrices that are done, in scratch files, each in the narrowest integers that hold them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from tokenbounds.messages.coding.lattice_codes import Codes
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.formats.lattice import LatticeMatrix
from tokenbounds.messages.formats.scaled import ScaledMatrix

_SMALL = 1 << 16  # codes that are not worth a file


@dataclass(frozen=True)
class _StoredCodes:
    """An int32 array in a file."""

    path: Path
    dtype: type[np.signedinteger]
    shape: Shape

    @classmethod
    def write(cls, codes: np.ndarray, path: Path) -> Self:
        least, greatest = int(codes.min()), int(codes.max())
        kinds = (np.int8, np.int16, np.int32)
        dtype = next(kind for kind in kinds if np.iinfo(kind).min <= least and greatest <= np.iinfo(kind).max)
        codes.astype(dtype).tofile(path)
        return cls(path, dtype, codes.shape)

    def read(self) -> np.ndarray:
        return np.fromfile(self.path, dtype=self.dtype).reshape(self.shape).astype(np.int32)


class KeptCodes(MutableMapping[str, np.ndarray]):
    """Int32 arrays by the names of tensors, large ones in scratch files that are read whenever they are asked for."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tokenbounds-codes-")
        self._kept: dict[str, _StoredCodes | np.ndarray] = {}

    def __setitem__(self, name: str, codes: np.ndarray) -> None:
        """Keep an array; what was kept under this name before can no longer be read."""
        small = codes.size < _SMALL
        self._kept[name] = codes if small else _StoredCodes.write(codes, Path(self._folder.name) / name)

    def __getitem__(self, name: str) -> np.ndarray:
        kept = self._kept[name]
        return kept.read() if isinstance(kept, _StoredCodes) else kept

    def __delitem__(self, name: str) -> None:
        del self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def shape(self, name: str) -> Shape:
        """Of one of them, without reading it."""
        return self._kept[name].shape


class KeptMatrix(ScaledMatrix):
    """A quantized matrix whose codes are read from a file whenever they are asked for."""

    def __init__(self, matrix: ScaledMatrix, path: Path, folder: tempfile.TemporaryDirectory[str]) -> None:
        kept = {
            "row_exponents": matrix.row_exponents,
            "column_exponents": matrix.column_exponents,
            "states": matrix.states,
            "transposed": matrix.transposed,
            "centre": matrix.centre,
            "_stored": _StoredCodes.write(matrix.codes, path),
            "_folder": folder,  # it is removed with the last matrix that is kept in it
        }
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @property
    def codes(self) -> np.ndarray:
        """Int32 [rows, columns]."""
        return self._stored.read()  # type: ignore[attr-defined]


class KeptLatticeMatrix(LatticeMatrix):
    """A matrix whose lattice codes, and residuals if it has any, are read from a file whenever they are asked for."""

    def __init__(self, matrix: LatticeMatrix, path: Path, folder: tempfile.TemporaryDirectory[str]) -> None:
        planes = [plane for plane in matrix.codes if plane is not None]
        with path.open("wb") as file:
            for plane in planes:
                plane.astype(np.uint16).tofile(file)
        kept = {"scale": matrix.scale, "_file": (path, planes[0].shape), "_folder": folder}
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @property
    def codes(self) -> Codes:
        """As those of `LatticeMatrix`."""
        path, shape = self._file  # type: ignore[attr-defined]
        planes = np.fromfile(path, dtype=np.uint16).reshape(-1, *shape)
        return planes[0], planes[1] if len(planes) > 1 else None


class CodeStore:
    """Keeps the codes of large matrices in files of a scratch folder."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tokenbounds-codes-")

    def keep(self, name: str, matrix: ScaledMatrix) -> ScaledMatrix:
        """The same matrix; what was kept under this name before can no longer be read."""
        if matrix.codes.size < _SMALL:
            return matrix
        return KeptMatrix(matrix, Path(self._folder.name) / name, self._folder)

    def keep_lattice(self, name: str, matrix: LatticeMatrix) -> LatticeMatrix:
        """As `keep`, for a matrix of lattice codes."""
        if matrix.codes[0].size < _SMALL:
            return matrix
        return KeptLatticeMatrix(matrix, Path(self._folder.name) / name, self._folder)
