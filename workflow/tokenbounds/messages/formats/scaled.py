"""Integers times a step for each row and a step for each column: the form of all post-training scalar quantizers.

A matrix's value is (code × row step) × column step, both products rounded to float32, steps on the logarithmic grid
of `uniform`. A quantizer that needs no column (or row) steps sends constant ones, which cost next to nothing. Vectors
(norms, biases) are coded as in `uniform`, with a fine step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tokenbounds.config.quantizers import UniformQuantizer
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import decode_planes, encode_planes
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape, decode_codes, encode_codes, plane_shape
from tokenbounds.messages.coding.trellis import STATES, Trellis, codes_of, trellis
from tokenbounds.messages.container import Message, Part
from tokenbounds.messages.formats.uniform import STEPS_PER_OCTAVE, UniformQuantized, step_of

# Products of two steps stay between 2^-124 and 2^124: normal numbers, which no machine flushes to zero.
LEAST_EXPONENT, GREATEST_EXPONENT = -496, 496
_VECTOR_SPEC = UniformQuantizer(kind="uniform", step_ratio=0.25)
_STEPS = np.array([step_of(exponent) for exponent in range(LEAST_EXPONENT, GREATEST_EXPONENT + 1)], dtype=np.float32)


def exponents_of(steps: np.ndarray) -> np.ndarray:
    """Exponents (eighths of an octave) of the nearest steps on the grid; int32, in the shape of `steps`."""
    safe = np.maximum(np.asarray(steps, dtype=np.float64), 2.0**-62)
    exponents = np.rint(STEPS_PER_OCTAVE * np.log2(safe)).astype(np.int32)
    return np.clip(exponents, LEAST_EXPONENT, GREATEST_EXPONENT)


def steps_of(exponents: np.ndarray) -> np.ndarray:
    """The float32 steps of exponents, the same bits on every machine."""
    return _STEPS[exponents - LEAST_EXPONENT]


def scaled_values(codes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Float32 values [rows, columns] of integer codes and step exponents; two products, each rounded."""
    return (codes.astype(np.float32) * steps_of(rows)[:, None]) * steps_of(columns)[None, :]


@dataclass(frozen=True)
class ScaledMatrix:
    """A quantized matrix as it is stored.

    Attributes
    ----------
    codes : int32 array [rows, columns]
    rows : int32 array [rows]
        Exponents of the row steps.
    columns : int32 array [columns]
        Exponents of the column steps.
    states : int
        Of the trellis that tells which grid, even or odd, each code is on; 0 without one.
    turned : bool
        Whether the trellis runs along rows: codes are then coded transposed. Without it, it runs along columns.
    """

    codes: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    states: int = 0
    turned: bool = False

    @property
    def machine(self) -> Trellis | None:
        """The trellis, if there is one."""
        return trellis(self.states) if self.states else None

    def values(self) -> np.ndarray:
        """Float32 values [rows, columns]."""
        return scaled_values(self.codes, self.rows, self.columns)

    @property
    def coded(self) -> np.ndarray:
        """The codes as they are coded: a trellis runs along columns."""
        return np.ascontiguousarray(self.codes.T) if self.turned else self.codes

    @property
    def transposed(self) -> ScaledMatrix:
        """The transpose: its values are the same bits only up to the order of the products."""
        turned = self.states > 0 and not self.turned
        return ScaledMatrix(np.ascontiguousarray(self.codes.T), self.columns, self.rows, self.states, turned)


@dataclass(frozen=True)
class ScaledQuantized:
    """A model's tensors: matrices with row and column steps, vectors as in `UniformQuantized`.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        All tensors in the model's order.
    matrices : dict of str to ScaledMatrix
    vectors : UniformQuantized
    """

    shapes: dict[str, Shape]
    matrices: dict[str, ScaledMatrix]
    vectors: UniformQuantized

    @classmethod
    def quantize(cls, spec: Any, tensors: Mapping[str, np.ndarray]) -> Self:
        """Round every matrix to the nearest multiple of one step a row, `spec.step_ratio` × its root mean square."""
        matrices = {}
        for name, tensor in tensors.items():
            if tensor.ndim >= 2:
                plane = finite(name, tensor).reshape(plane_shape(tensor.shape)).astype(np.float64)
                rows = exponents_of(spec.step_ratio * np.sqrt(np.mean(plane**2, axis=1)))
                columns = np.zeros(plane.shape[1], dtype=np.int32)
                matrices[name] = ScaledMatrix(np.rint(plane / steps_of(rows)[:, None]).astype(np.int32), rows, columns)
        return cls.assemble(tensors, matrices)

    @classmethod
    def assemble(cls, tensors: Mapping[str, np.ndarray], matrices: Mapping[str, ScaledMatrix]) -> Self:
        """Join quantized matrices with the vectors among `tensors`, which are rounded finely here."""
        vectors = {name: tensor for name, tensor in tensors.items() if tensor.ndim < 2}
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return cls(shapes, dict(matrices), UniformQuantized.quantize(_VECTOR_SPEC, vectors))

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name."""
        vectors = self.vectors.dequantize()
        return {
            name: self.matrices[name].values().reshape(shape) if name in self.matrices else vectors[name]
            for name, shape in self.shapes.items()
        }

    def header(self) -> dict[str, Any]:
        """The kind; if any matrix has a trellis, its states, and the numbers of the matrices without and turned."""
        states = max((matrix.states for matrix in self.matrices.values()), default=0)
        if not states:
            return {"kind": "scaled"}
        plain = [index for index, matrix in enumerate(self.matrices.values()) if not matrix.states]
        turned = [index for index, matrix in enumerate(self.matrices.values()) if matrix.turned]
        return {"kind": "scaled", "trellis": states, "plain": plain} | ({"turned": turned} if turned else {})

    def symbols(self) -> list[np.ndarray]:
        """All codes, in the model's order; on a trellis, half of each grid point, which is what is coded."""
        machines = self._machines()
        return [codes_of(codes) if machine else codes for codes, machine in zip(self._codes(), machines, strict=True)]

    def _codes(self) -> list[np.ndarray]:
        return [
            self.matrices[name].coded if name in self.matrices else self.vectors.codes[name] for name in self.shapes
        ]

    def _machines(self) -> list[Trellis | None]:
        return [self.matrices[name].machine if name in self.matrices else None for name in self.shapes]

    def to_parts(self, coder: Coder) -> list[Part]:
        """Steps of all matrices, then those of the vectors, in `scales`; codes in `symbols`."""
        scales = encode_scales(list(self.matrices.values()), list(self.vectors.exponents.values()))
        return [Part("scales", scales), Part("symbols", encode_codes(self._codes(), coder, self._machines()))]

    @classmethod
    def from_message(cls, message: Message, shapes: Mapping[str, Shape], coder: Coder) -> Self:
        """Decode the parts that `to_parts` wrote."""
        names = [name for name, shape in shapes.items() if len(shape) >= 2]
        vectors = [name for name in shapes if name not in set(names)]
        planes = [plane_shape(shapes[name]) for name in names]
        steps, exponents = decode_scales(message.part("scales"), planes, len(vectors))
        trellises = dict(zip(names, _read_trellises(message.header.get("quantizer"), len(names)), strict=True))
        coded = dict(shapes) | dict(zip(names, planes, strict=True))
        coded |= {name: coded[name][::-1] for name, (_, turned) in trellises.items() if turned}
        machines = [trellis(trellises[name][0]) if trellises.get(name, (0,))[0] else None for name in shapes]
        decoded = decode_codes(message.part("symbols"), list(coded.values()), coder, machines)
        codes = dict(zip(shapes, decoded, strict=True))
        matrices = {}
        for name, (rows, columns) in zip(names, steps, strict=True):
            states, turned = trellises[name]
            upright = np.ascontiguousarray(codes[name].T) if turned else codes[name]
            matrices[name] = ScaledMatrix(upright, rows, columns, states, turned)
        rounded = UniformQuantized({name: codes[name] for name in vectors}, dict(zip(vectors, exponents, strict=True)))
        return cls(dict(shapes), matrices, rounded)


def _read_trellises(settings: Any, matrices: int) -> list[tuple[int, bool]]:
    """States of each matrix's trellis, and whether it is turned, from the header's settings.

    Raises
    ------
    MessageError
        If they are not what `ScaledQuantized.header` writes.
    """
    settings = settings if isinstance(settings, dict) else {}
    states, plain, turned = settings.get("trellis", 0), settings.get("plain", []), settings.get("turned", [])
    if states == 0 or settings.get("kind") != "scaled":
        return [(0, False)] * matrices
    if type(states) is not int or states not in STATES:
        raise MessageError(f"a trellis has {' or '.join(map(str, STATES))} states, not {states!r:.40}.")
    for numbers in (plain, turned):
        if not isinstance(numbers, list) or any(type(index) is not int for index in numbers):
            raise MessageError("a list of matrices without a trellis, or with a turned one, holds more than integers.")
    without, across = set(plain), set(turned)
    return [(0, False) if index in without else (states, index in across) for index in range(matrices)]


def finite(name: str, tensor: np.ndarray) -> np.ndarray:
    """The tensor itself.

    Raises
    ------
    MessageError
        If it holds a value that is not finite, or none at all.
    """
    if tensor.size == 0 or not np.all(np.isfinite(tensor)):
        raise MessageError(f"{name} is empty or holds values that are not finite. Train or load the model again.")
    return tensor


def encode_scales(matrices: Sequence[ScaledMatrix], vectors: Sequence[int]) -> bytes:
    """Code all exponents in one adaptive stream: medians of rows and columns, then vectors, then what differs.

    Exponents of a matrix are coded as differences to their median: the columns, which follow the inputs' spread, in
    one plane, the rows in another.
    """
    medians = np.zeros((len(matrices), 2), dtype=np.int64)
    planes = []
    for index, matrix in enumerate(matrices):
        for side, exponents in enumerate((matrix.rows, matrix.columns)):
            if exponents.size:
                medians[index, side] = np.sort(exponents)[exponents.size // 2]
            planes.append((exponents.astype(np.int64) - medians[index, side])[None])
    return encode_planes([medians, np.array(vectors, dtype=np.int64)[None], *planes])


def decode_scales(
    data: bytes, planes: Sequence[tuple[int, int]], vectors: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[int]]:
    """Decode what `encode_scales` wrote: row and column exponents of each matrix, and the vectors' exponents.

    Raises
    ------
    MessageError
        If an exponent lies outside its range.
    """
    lines = [(1, side) for plane in planes for side in plane]
    medians, single, *rest = decode_planes(data, [(len(planes), 2), (1, vectors), *lines])
    found = []
    for index in range(len(planes)):
        pair = []
        for side in range(2):
            exponents = rest[2 * index + side][0].astype(np.int64) + int(medians[index, side])
            if exponents.size and not LEAST_EXPONENT <= exponents.min() <= exponents.max() <= GREATEST_EXPONENT:
                raise MessageError(f"a step's exponent lies outside [{LEAST_EXPONENT}, {GREATEST_EXPONENT}].")
            pair.append(exponents.astype(np.int32))
        found.append((pair[0], pair[1]))
    if single.size and not -512 <= int(single.min()) <= int(single.max()) < 512:
        raise MessageError("a vector's step lies outside the range of steps.")
    return found, [int(value) for value in single[0]]
