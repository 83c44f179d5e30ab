"""Roundings kept on disk, so that an encoding that was interrupted goes on where it stopped.

A search for a scale is deterministic: what is rounded, at which scale and with which code lengths, repeats when it is
run again. So every rounded matrix is kept under a hash of just that, and found again.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tokenbounds.compression.calibration.layers import Matrix
from tokenbounds.compression.posttraining.rates import RateModel
from tokenbounds.compression.posttraining.roundings import Rounding, Unrounded
from tokenbounds.files import write_bytes
from tokenbounds.messages.formats import Format
from tokenbounds.messages.formats.scaled import Centre, ScaledFormat, ScaledMatrix

_ARRAYS = ("codes", "row_exponents", "column_exponents")


class KeptRounding(Rounding):
    """Another rounding, each of whose results is kept in a folder.

    Parameters
    ----------
    way : Rounding
        The one that rounds.
    folder : path
        Belongs to one model, calibration and quantizer; whoever names it sees to that.
    """

    def __init__(self, way: Rounding, folder: Path) -> None:
        self._way, self._folder = way, folder

    def round(self, matrix: Matrix, weight: np.ndarray, scale: float, rates: RateModel | None) -> ScaledMatrix:
        """See `Rounding`."""
        item = Unrounded(matrix, weight, rates)
        kept = self._find(item, scale)
        return kept or self._keep(item, scale, self._way.round(matrix, weight, scale, rates))

    def round_together(self, items: Sequence[Unrounded], scale: float, device: torch.device) -> list[ScaledMatrix]:
        """See `Rounding`."""
        kept = [self._find(item, scale) for item in items]
        missing = [item for item, found in zip(items, kept, strict=True) if found is None]
        rounded = self._way.round_together(missing, scale, device) if missing else []
        new = iter([self._keep(item, scale, found) for item, found in zip(missing, rounded, strict=True)])
        return [found or next(new) for found in kept]

    def unit(self, matrix: Matrix, weight: np.ndarray) -> float:
        """See `Rounding`."""
        return self._way.unit(matrix, weight)

    def finish(self, scaled: ScaledFormat, matrices: Sequence[Matrix]) -> Format:
        """See `Rounding`."""
        return self._way.finish(scaled, matrices)

    def _path(self, item: Unrounded, scale: float) -> Path:
        return self._folder / f"{_key(item.matrix, item.weight, scale, item.rates)}.npz"

    def _find(self, item: Unrounded, scale: float) -> ScaledMatrix | None:
        path = self._path(item, scale)
        kept = _read(path) if path.is_file() else None
        return kept if kept is not None and kept.codes.shape == item.weight.shape else None

    def _keep(self, item: Unrounded, scale: float, found: ScaledMatrix) -> ScaledMatrix:
        _write(self._path(item, scale), found)
        return found


def _key(matrix: Matrix, weight: np.ndarray, scale: float, rates: RateModel | None) -> str:
    digest = hashlib.sha256(f"{matrix.name} {scale.hex()}".encode())
    digest.update(np.ascontiguousarray(weight).data)  # not always the model's own: it may be corrected for drift
    for array in (rates.row_bands, rates.column_bands, rates.lengths) if rates is not None else ():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def _write(path: Path, matrix: ScaledMatrix) -> None:
    """Codes in as few bytes as hold the largest, compressed: about as large as in a message."""
    largest = int(np.abs(matrix.codes).max(initial=0))
    narrow = next(dtype for dtype in (np.int8, np.int16, np.int32) if largest <= np.iinfo(dtype).max)
    arrays = {name: getattr(matrix, name) for name in _ARRAYS} | {"codes": matrix.codes.astype(narrow)}
    if matrix.centre is not None:
        arrays["centre"] = np.append(matrix.centre.codes, matrix.centre.exponent)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, states=np.array([matrix.states, matrix.transposed]), **arrays)
    write_bytes(path, buffer.getvalue())


def _read(path: Path) -> ScaledMatrix | None:
    """What `_write` wrote; None if the file is damaged, so that the matrix is rounded again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            codes, rows, columns = (file[name].astype(np.int32) for name in _ARRAYS)
            states, transposed = (int(value) for value in file["states"])
            kept = file["centre"].astype(np.int32) if "centre" in file else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    centre = None if kept is None else Centre(kept[:-1], int(kept[-1]))
    return ScaledMatrix(codes, rows, columns, states, bool(transposed), centre)
