"""Integers times a step for each row and a step for each column: the form of all post-training scalar quantizers.

A matrix's value is (code × row step) × column step, both products rounded to float32, steps on the logarithmic scale
of `grid`. A quantizer that needs no column (or row) steps sends constant ones, which cost next to nothing. Codes may be
of differences from one row, the matrix's centre, which is then added. Vectors (norms, biases) are coded as in `grid`,
with a fine step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import decode_planes, encode_planes
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import (
    CodeSequence,
    Shape,
    decode_codes,
    encode_codes,
    iter_codes,
    plane_shape,
)
from tokenbounds.messages.coding.trellis import STATES, Trellis, codes_of, trellis
from tokenbounds.messages.container import Header, Message, Part
from tokenbounds.messages.formats.base import Format
from tokenbounds.messages.formats.grid import STEPS_PER_OCTAVE, GridTensors, grid_values, step_of

# Products of two steps stay between 2^-124 and 2^124: normal numbers, which no machine flushes to zero.
LEAST_EXPONENT, GREATEST_EXPONENT = -496, 496
_STEPS = np.array([step_of(exponent) for exponent in range(LEAST_EXPONENT, GREATEST_EXPONENT + 1)], dtype=np.float32)


def exponents_of(steps: np.ndarray) -> np.ndarray:
    """Exponents (eighths of an octave) of the nearest steps on the grid; int32, in the shape of `steps`."""
    safe = np.maximum(np.asarray(steps, dtype=np.float64), 2.0**-62)
    exponents = np.rint(STEPS_PER_OCTAVE * np.log2(safe)).astype(np.int32)
    return np.clip(exponents, LEAST_EXPONENT, GREATEST_EXPONENT)


def steps_of(exponents: np.ndarray) -> np.ndarray:
    """The float32 steps of exponents, the same bits on every machine."""
    return _STEPS[exponents - LEAST_EXPONENT]


def scaled_values(codes: np.ndarray, row_exponents: np.ndarray, column_exponents: np.ndarray) -> np.ndarray:
    """Float32 values [rows, columns] of integer codes and step exponents; two products, each rounded."""
    values: np.ndarray = codes.astype(np.float32)
    values *= steps_of(row_exponents)[:, None]
    values *= steps_of(column_exponents)[None, :]
    return values


@dataclass(frozen=True)
class Centre:
    """A row that all rows of a matrix are differences from.

    Attributes
    ----------
    codes : int32 array [columns]
    exponent : int
        In [-512, 512); the step is 2^(exponent / 8).
    """

    codes: np.ndarray
    exponent: int

    def values(self) -> np.ndarray:
        """Float32 values [columns]."""
        values: np.ndarray = self.codes.astype(np.float32)
        values *= step_of(self.exponent)
        return values


@dataclass(frozen=True)
class ScaledMatrix:
    """A quantized matrix as it is stored.

    Attributes
    ----------
    codes : int32 array [rows, columns]
    row_exponents : int32 array [rows]
        Of the row steps.
    column_exponents : int32 array [columns]
        Of the column steps.
    states : int
        Of the trellis that determines which grid, even or odd, each code is on; 0 without one.
    transposed : bool
        Whether codes are coded transposed, because the trellis runs along rows; otherwise it runs along columns.
    centre : Centre, optional
        What is added to every row. A matrix with one is never transposed.
    """

    codes: np.ndarray
    row_exponents: np.ndarray
    column_exponents: np.ndarray
    states: int = 0
    transposed: bool = False
    centre: Centre | None = None

    @property
    def machine(self) -> Trellis | None:
        """The trellis, if there is one."""
        return trellis(self.states) if self.states else None

    def values(self) -> np.ndarray:
        """Float32 values [rows, columns]."""
        values = scaled_values(self.codes, self.row_exponents, self.column_exponents)
        if self.centre is not None:
            values += self.centre.values()
        return values

    @property
    def coded(self) -> np.ndarray:
        """The codes as they are coded: a trellis runs along columns."""
        return np.ascontiguousarray(self.codes.T) if self.transposed else self.codes

    @property
    def coded_shape(self) -> Shape:
        """The shape of `coded`."""
        shape = len(self.row_exponents), len(self.column_exponents)
        return shape[::-1] if self.transposed else shape

    def transpose(self) -> ScaledMatrix:
        """The transpose: its values are the same bits only up to the order of the products."""
        transposed = self.states > 0 and not self.transposed
        return ScaledMatrix(
            np.ascontiguousarray(self.codes.T), self.column_exponents, self.row_exponents, self.states, transposed
        )


@dataclass(frozen=True)
class ScaledFormat(Format):
    """A model's tensors: matrices with row and column steps, vectors on grids.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        All tensors in the model's order.
    matrices : dict of str to ScaledMatrix
    vectors : GridTensors
    """

    shapes: dict[str, Shape]
    matrices: dict[str, ScaledMatrix]
    vectors: GridTensors
    kind: ClassVar[str] = "scaled"
    part_kinds: ClassVar[tuple[str, ...]] = ("scales", "symbols")

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name."""
        return dict(self.iter_values())

    def iter_values(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the tensors in the model's order."""
        for name, shape in self.shapes.items():
            if name in self.matrices:
                yield name, self.matrices[name].values().reshape(shape)
            else:
                yield name, grid_values(name, self.vectors.codes[name], self.vectors.exponents[name])

    def header(self) -> Header:
        """The kind; with a trellis its states, and which matrices, by number, have none and which are transposed.

        Matrices with a centre are listed, too, if there are any.
        """
        centred = [index for index, matrix in enumerate(self.matrices.values()) if matrix.centre is not None]
        settings: Header = {"kind": self.kind} | ({"centred": centred} if centred else {})
        states = max((matrix.states for matrix in self.matrices.values()), default=0)
        if not states:
            return settings
        plain = [index for index, matrix in enumerate(self.matrices.values()) if not matrix.states]
        transposed = [index for index, matrix in enumerate(self.matrices.values()) if matrix.transposed]
        # The key in messages is older than the field's name.
        return settings | {"trellis": states, "plain": plain} | ({"turned": transposed} if transposed else {})

    def symbols(self) -> Sequence[np.ndarray]:
        """All codes, in the model's order; on a trellis, half of each grid point, which is what is coded."""
        codes, machines = self._codes(), self._machines()
        return CodeSequence(codes.shapes, lambda index: codes_of(codes[index]) if machines[index] else codes[index])

    def _codes(self) -> CodeSequence:
        """The codes as they are coded, each read when it is asked for."""
        names = list(self.shapes)

        def make(index: int) -> np.ndarray:
            name = names[index]
            return self.matrices[name].coded if name in self.matrices else self.vectors.codes[name]

        shapes = [self.matrices[name].coded_shape if name in self.matrices else self.shapes[name] for name in names]
        return CodeSequence(shapes, make)

    def _machines(self) -> list[Trellis | None]:
        return [self.matrices[name].machine if name in self.matrices else None for name in self.shapes]

    def to_parts(self, coder: Coder) -> list[Part]:
        """Steps of all matrices, then those of the vectors, in `scales`; codes in `symbols`."""
        scales = encode_scales(list(self.matrices.values()), list(self.vectors.exponents.values()))
        return [Part("scales", scales), Part("symbols", encode_codes(self._codes(), coder, self._machines()))]

    @classmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Decode the parts that `to_parts` wrote."""
        frame = _Frame.read(message, shapes)
        decoded = decode_codes(message.content("symbols"), frame.coded, coder, frame.machines)
        codes = dict(zip(shapes, decoded, strict=True))
        matrices = {name: frame.matrix(name, codes[name]) for name in frame.steps}
        vectors = {name: codes[name] for name in frame.exponents}
        return cls(dict(shapes), matrices, GridTensors(vectors, frame.exponents))

    @classmethod
    def stream_values(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the tensors, decoded one at a time."""
        frame, none = _Frame.read(message, shapes), np.zeros((0, 0), dtype=np.int32)
        empty = {name: frame.matrix(name, none) for name in frame.steps}
        cls(dict(shapes), empty, GridTensors({}, frame.exponents)).check_header(message)
        yield from cls.stream_scaled(message, shapes, coder, frame)

    @staticmethod
    def stream_scaled(
        message: Message, shapes: Mapping[str, Shape], coder: Coder, frame: _Frame | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """As `stream_values`, for a format that has settings of its own and writes the same parts."""
        frame, names = frame or _Frame.read(message, shapes), list(shapes)
        for index, codes in iter_codes(message.content("symbols"), frame.coded, coder, frame.machines):
            name = names[index]
            if name in frame.steps:
                yield name, frame.matrix(name, codes).values().reshape(shapes[name])
            else:
                yield name, grid_values(name, codes, frame.exponents[name])
            del codes  # not kept while the next are decoded


@dataclass(frozen=True)
class _Frame:
    """All of a message but its codes.

    Attributes
    ----------
    steps : dict of str to two int32 arrays
        Exponents of each matrix's rows [rows] and columns [columns].
    centres : dict of str to Centre
        Of the matrices that have one.
    trellises : dict of str to (int, bool)
        States of each matrix's trellis, and whether it is coded transposed.
    exponents : dict of str to int
        Of the vectors' steps.
    coded : list of shapes
        What the coder wrote of each tensor, in the model's order: a vector as it is, a matrix as a plane, transposed
        where the header says.
    machines : list of Trellis or None
    """

    steps: dict[str, tuple[np.ndarray, np.ndarray]]
    centres: dict[str, Centre]
    trellises: dict[str, tuple[int, bool]]
    exponents: dict[str, int]
    coded: list[Shape]
    machines: list[Trellis | None]

    @classmethod
    def read(cls, message: Message, shapes: Mapping[str, Shape]) -> Self:
        """Read scales and settings; MessageError if they are damaged."""
        planes = {name: plane_shape(shape) for name, shape in shapes.items() if len(shape) >= 2}
        vectors = [name for name in shapes if name not in planes]
        settings = message.header.get("quantizer")
        centred = [name for name, has_one in zip(planes, _read_centred(settings, len(planes)), strict=True) if has_one]
        widths = [planes[name][1] for name in centred]
        steps, exponents, centres = decode_scales(message.part("scales"), list(planes.values()), len(vectors), widths)
        trellises = dict(zip(planes, _read_trellises(settings, len(planes)), strict=True))
        coded: dict[str, Shape] = dict(shapes)
        for name, (rows, columns) in planes.items():
            coded[name] = (columns, rows) if trellises[name][1] else (rows, columns)
        machines = [trellis(states) if (states := trellises.get(name, (0,))[0]) else None for name in shapes]
        of_matrices, of_centred = dict(zip(planes, steps, strict=True)), dict(zip(centred, centres, strict=True))
        of_vectors = dict(zip(vectors, exponents, strict=True))
        return cls(of_matrices, of_centred, trellises, of_vectors, list(coded.values()), machines)

    def matrix(self, name: str, codes: np.ndarray) -> ScaledMatrix:
        """A matrix from its codes as they were coded."""
        states, transposed = self.trellises[name]
        upright = np.ascontiguousarray(codes.T) if transposed else codes
        return ScaledMatrix(upright, *self.steps[name], states, transposed, self.centres.get(name))


def _read_centred(settings: Any, matrices: int) -> list[bool]:
    """Whether each matrix has a centre, from the header's settings; MessageError if they are not a list of integers."""
    settings = settings if isinstance(settings, dict) else {}
    centred = settings.get("centred", []) if settings.get("kind") == ScaledFormat.kind else []
    if not isinstance(centred, list) or any(type(index) is not int for index in centred):
        raise MessageError("the list of matrices with a centre holds more than integers.")
    numbers = set(centred)
    return [index in numbers for index in range(matrices)]


def _read_trellises(settings: Any, matrices: int) -> list[tuple[int, bool]]:
    """States of each matrix's trellis, and whether it is coded transposed, from the header's settings.

    Raises
    ------
    MessageError
        If they are not what `ScaledFormat.header` writes.
    """
    settings = settings if isinstance(settings, dict) else {}
    states, plain, transposed = settings.get("trellis", 0), settings.get("plain", []), settings.get("turned", [])
    if states == 0 or settings.get("kind") != ScaledFormat.kind:
        return [(0, False)] * matrices
    if type(states) is not int or states not in STATES:
        raise MessageError(f"a trellis has {' or '.join(map(str, STATES))} states, not {states!r:.40}.")
    for numbers in (plain, transposed):
        if not isinstance(numbers, list) or any(type(index) is not int for index in numbers):
            raise MessageError("a list of matrices without a trellis, or of transposed ones, holds more than integers.")
    without, across = set(plain), set(transposed)
    return [(0, False) if index in without else (states, index in across) for index in range(matrices)]


def encode_scales(matrices: Sequence[ScaledMatrix], vectors: Sequence[int]) -> bytes:
    """Code all exponents in one adaptive stream: medians of rows and columns, then vectors, then differences.

    Exponents of a matrix are coded as differences from their median: the columns, which follow the inputs' spread, in
    one plane, the rows in another. Exponents of centres follow those of vectors, and their codes all else.
    """
    medians = np.zeros((len(matrices), 2), dtype=np.int64)  # of each matrix's rows and columns
    planes = []
    for index, matrix in enumerate(matrices):
        for side, exponents in enumerate((matrix.row_exponents, matrix.column_exponents)):
            if exponents.size:
                medians[index, side] = np.sort(exponents)[exponents.size // 2]
            planes.append((exponents.astype(np.int64) - medians[index, side])[None])
    centres = [matrix.centre for matrix in matrices if matrix.centre is not None]
    single = np.array([*vectors, *(centre.exponent for centre in centres)], dtype=np.int64)
    planes += [centre.codes.astype(np.int64)[None] for centre in centres]
    return bytes(encode_planes([medians, single[None], *planes]))


def decode_scales(
    data: bytes, planes: Sequence[tuple[int, int]], vectors: int, centred: Sequence[int] = ()
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[int], list[Centre]]:
    """Decode what `encode_scales` wrote: row and column exponents of each matrix, the vectors' exponents, and centres.

    `planes` are the matrices' shapes, `centred` the columns of those that have a centre.

    Raises
    ------
    MessageError
        If an exponent lies outside its range.
    """
    lines = [(1, side) for plane in planes for side in plane]
    lines += [(1, columns) for columns in centred]
    medians, single, *rest = decode_planes(data, [(len(planes), 2), (1, vectors + len(centred)), *lines])
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
        raise MessageError("a vector's step or a centre's lies outside the range of steps.")
    singles = [int(value) for value in single[0]]
    codes = [plane[0].astype(np.int32) for plane in rest[2 * len(planes) :]]
    centres = [Centre(*pair) for pair in zip(codes, singles[vectors:], strict=True)]
    return found, singles[:vectors], centres
