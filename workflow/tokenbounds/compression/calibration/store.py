"""Calibration data on disk: one safetensors file, written tensor by tensor, read tensor by tensor.

Tensors (float32, windows int32): ``moments/<group>`` [n, n], second moments of a layer's inputs (`head`: of the final
hidden states; `lookup`: of the loss's gradient where tokens are looked up); ``outputs/<parameter>`` [rows], mean
squared gradient of the loss (nats) at each output of a linear layer, mean p(1 − p) of each token for a head;
``rows/<parameter>`` [rows], how often each row of a table was looked up, per token; ``loss_bits`` [1], mean loss of the
calibrated tokens; ``windows/inputs`` and ``windows/targets`` [windows, context], the tokens themselves, -100 where
there is no target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from tokenbounds.compression.calibration.layers import Matrix
from tokenbounds.errors import CalibrationError
from tokenbounds.files import atomic_path, canonical_json, parse_json
from tokenbounds.seals import BLANK_SEAL, SEAL_KEY, seal, sha256_of_sealed

CALIBRATION_VERSION = 2
_TOKENS = "windows/"


@dataclass(frozen=True)
class Calibration:
    """Calibration data of one model, read on demand.

    Attributes
    ----------
    path : Path
    record : dict
        What it was computed from: corpus, its hash, documents, tokens, context, seed, and the model's card.
    """

    path: Path
    record: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> Calibration:
        """Open a file that `calibrate_model` wrote.

        Raises
        ------
        CalibrationError
            If it is missing, damaged or of another version.
        """
        path = Path(path)
        sha256_of_sealed(path, CalibrationError, "Calibrate again.")
        try:
            with safe_open(path, framework="np") as file:
                record = parse_json((file.metadata() or {}).get("calibration", "{}"))
        except (SafetensorError, OSError, ValueError) as error:
            raise CalibrationError(f"cannot read the calibration {path}: {error}. Calibrate again.") from error
        if not isinstance(record, dict) or record.get("schema_version") != CALIBRATION_VERSION:
            raise CalibrationError(f"{path} is not a calibration of version {CALIBRATION_VERSION}. Calibrate again.")
        return cls(path, record)

    def moments(self, matrix: Matrix) -> np.ndarray:
        """Second moments of a matrix's inputs, float32 [n, n]; of a table's gradients if it is only looked up."""
        return self._tensor(f"moments/{matrix.group}")

    def lookup_moments(self) -> np.ndarray:
        """Second moments of the loss's gradient where tokens are looked up, float32 [n, n]."""
        return self._tensor("moments/lookup")

    def outputs(self, matrix: Matrix) -> np.ndarray:
        """Mean squared gradient of the loss in nats at each output, float32 [outputs]."""
        return self._tensor(f"outputs/{matrix.name}")

    def row_frequencies(self, matrix: Matrix) -> np.ndarray:
        """How often each row of a table was looked up, per token, float32 [rows]."""
        return self._tensor(f"rows/{matrix.name}")

    @property
    def loss_bits(self) -> float:
        """Mean loss of the calibrated tokens before quantization, in bits."""
        return float(self._tensor("loss_bits")[0])

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """The calibrated tokens, and what follows each, -100 where nothing does; int64 [windows, context]."""
        inputs, targets = (self._tensor(f"{_TOKENS}{name}").astype(np.int64) for name in ("inputs", "targets"))
        return inputs, targets

    def _tensor(self, name: str) -> np.ndarray:
        try:
            with safe_open(self.path, framework="np") as file:
                value = np.asarray(file.get_tensor(name))
        except (SafetensorError, OSError) as error:
            raise CalibrationError(
                f"{self.path} does not fit the model: it has no '{name}'. Calibrate this model."
            ) from error
        if not np.all(np.isfinite(value)):
            raise CalibrationError(f"{self.path}: '{name}' is not finite. Calibrate in float32, or on other text.")
        return value


class CalibrationWriter:
    """Writes tensors of shapes known in advance into one safetensors file, in any order: float32, or int32 tokens."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], record: Mapping[str, Any]) -> None:
        header: dict[str, Any] = {"__metadata__": {"calibration": canonical_json(dict(record)), SEAL_KEY: BLANK_SEAL}}
        end = 0
        for name, shape in shapes.items():
            begin, end = end, end + 4 * math.prod(shape)
            dtype = "I32" if name.startswith(_TOKENS) else "F32"
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        text = canonical_json(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        self._path, self._base, self._header = path, 8 + len(text), header
        self._missing = set(shapes)

    def write(self, name: str, value: np.ndarray) -> None:
        """Put a tensor in its place."""
        entry = self._header[name]
        assert list(value.shape) == entry["shape"], (name, value.shape)
        with self._path.open("r+b") as file:
            file.seek(self._base + entry["data_offsets"][0])
            dtype = "<i4" if entry["dtype"] == "I32" else "<f4"
            file.write(np.ascontiguousarray(value, dtype=dtype).tobytes())
        self._missing.discard(name)

    def check_complete(self) -> None:
        """Raise AssertionError if a tensor was not written."""
        assert not self._missing, f"not written: {sorted(self._missing)[:3]}"


@contextmanager
def calibration_writer(
    path: Path | str, shapes: Mapping[str, tuple[int, ...]], record: Mapping[str, Any]
) -> Iterator[CalibrationWriter]:
    """A writer whose file appears under `path` once all tensors are there."""
    with atomic_path(path) as temporary:
        writer = CalibrationWriter(temporary, shapes, {**record, "schema_version": CALIBRATION_VERSION})
        yield writer
        writer.check_complete()
        seal(temporary)
