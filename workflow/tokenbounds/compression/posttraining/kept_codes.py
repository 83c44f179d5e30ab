"""Codes of matrices that are done, in scratch files, each in the narrowest integers that hold them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tokenbounds.messages.coding.lattice_codes import Codes
from tokenbounds.messages.formats.lattice import LatticeMatrix
from tokenbounds.messages.formats.scaled import ScaledMatrix

_SMALL = 1 << 16  # codes that are not worth a file


class KeptMatrix(ScaledMatrix):
    """A quantized matrix whose codes are read from a file whenever they are asked for."""

    def __init__(self, matrix: ScaledMatrix, path: Path, folder: tempfile.TemporaryDirectory[str]) -> None:
        codes = matrix.codes
        least, greatest = int(codes.min()), int(codes.max())
        kinds = (np.int8, np.int16, np.int32)
        dtype = next(kind for kind in kinds if np.iinfo(kind).min <= least and greatest <= np.iinfo(kind).max)
        codes.astype(dtype).tofile(path)
        kept = {
            "row_exponents": matrix.row_exponents,
            "column_exponents": matrix.column_exponents,
            "states": matrix.states,
            "transposed": matrix.transposed,
            "_file": (path, dtype, codes.shape),
            "_folder": folder,  # it is removed with the last matrix that is kept in it
        }
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @property
    def codes(self) -> np.ndarray:
        """Int32 [rows, columns]."""
        path, dtype, shape = self._file  # type: ignore[attr-defined]
        return np.fromfile(path, dtype=dtype).reshape(shape).astype(np.int32)


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
