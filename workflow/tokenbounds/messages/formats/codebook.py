"""Codebooks: each matrix's values are indices into its own sorted, learned float16 values.

The format of Lotfi et al. 2024, arXiv 2407.18158. Vectors (norms, biases) are too short to pay for a codebook, so each
is on a grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import CodeSequence, Shape, decode_codes, encode_codes, iter_codes
from tokenbounds.messages.container import Header, Message, Part, read_varint, write_varint
from tokenbounds.messages.formats.base import Format
from tokenbounds.messages.formats.grid import GridTensors, decode_exponents, encode_exponents, grid_values

MAX_VALUES = 256


@dataclass(frozen=True)
class CodebookFormat(Format):
    """Matrices as indices into codebooks, vectors on grids.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        All tensors in the model's order.
    indices : mapping of str to int32 array
        Each may be read from a file when it is asked for.
    codebooks : dict of str to float16 array
        Strictly increasing, 1 to 256 values.
    vectors : GridTensors
    """

    shapes: dict[str, Shape]
    indices: Mapping[str, np.ndarray]
    codebooks: dict[str, np.ndarray]
    vectors: GridTensors
    kind: ClassVar[str] = "codebook"
    part_kinds: ClassVar[tuple[str, ...]] = ("codebooks", "scales", "symbols")

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name."""
        return dict(self.iter_values())

    def iter_values(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the tensors in the model's order."""
        for name in self.shapes:
            if name in self.codebooks:
                yield name, self.codebooks[name].astype(np.float32)[self.indices[name]]
            else:
                yield name, grid_values(name, self.vectors.codes[name], self.vectors.exponents[name])

    def header(self) -> Header:
        """The message's header needs nothing but the kind."""
        return {"kind": self.kind}

    def symbols(self) -> CodeSequence:
        """Codes of all tensors in the model's order: indices from the value nearest zero, or the vectors' codes."""
        names = list(self.shapes)

        def make(place: int) -> np.ndarray:
            name = names[place]
            if name not in self.codebooks:
                return self.vectors.codes[name]
            # Counted from there, small magnitudes are frequent, as the coder expects of codes on a grid.
            return self.indices[name] - np.int32(_origin(self.codebooks[name]))

        return CodeSequence(list(self.shapes.values()), make)

    def to_parts(self, coder: Coder) -> list[Part]:
        """Codebooks, step exponents of the vectors, symbols."""
        books = [write_varint(len(book) - 1) + book.astype("<f2").tobytes() for book in self.codebooks.values()]
        return [
            Part("codebooks", b"".join(books)),
            Part("scales", encode_exponents(list(self.vectors.exponents.values()))),
            Part("symbols", encode_codes(self.symbols(), coder)),
        ]

    @classmethod
    def from_message(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder, coarse: Format | None = None
    ) -> Self:
        """Decode the parts that `to_parts` wrote."""
        codebooks, exponents = _read_scales(message, shapes)
        codes = dict(zip(shapes, decode_codes(message.content("symbols"), list(shapes.values()), coder), strict=True))
        indices = {name: _indices(name, codes[name], codebook) for name, codebook in codebooks.items()}
        quantized = GridTensors({name: codes[name] for name in exponents}, exponents)
        return cls(dict(shapes), indices, codebooks, quantized)

    @classmethod
    def stream_values(
        cls, message: Message, shapes: Mapping[str, Shape], coder: Coder
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the tensors, decoded one at a time."""
        names = list(shapes)
        codebooks, exponents = _read_scales(message, shapes)
        cls({}, {}, {}, GridTensors({}, {})).check_header(message)
        for index, codes in iter_codes(message.content("symbols"), list(shapes.values()), coder):
            name = names[index]
            if name in codebooks:
                yield name, codebooks[name].astype(np.float32)[_indices(name, codes, codebooks[name])]
            else:
                yield name, grid_values(name, codes, exponents[name])


def _read_scales(message: Message, shapes: Mapping[str, Shape]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Codebooks of the matrices and exponents of the vectors, by name; MessageError if they are damaged."""
    matrices = [name for name, shape in shapes.items() if len(shape) >= 2]
    vectors = [name for name, shape in shapes.items() if len(shape) < 2]
    codebooks = dict(zip(matrices, _read_codebooks(message.part("codebooks"), len(matrices)), strict=True))
    return codebooks, dict(zip(vectors, decode_exponents(message.part("scales"), len(vectors)), strict=True))


def _indices(name: str, codes: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Indices from a matrix's codes; MessageError if one is outside its codebook."""
    indices: np.ndarray = codes + np.int32(_origin(codebook))
    if codes.size and not 0 <= int(indices.min()) <= int(indices.max()) < len(codebook):
        raise MessageError(f"{name} holds an index outside its codebook of {len(codebook)} values.")
    return indices


def _origin(codebook: np.ndarray) -> int:
    """Index of the value nearest zero, the lower of two."""
    return int(np.argmin(np.abs(codebook.astype(np.float64))))


def _read_codebooks(data: bytes, count: int) -> list[np.ndarray]:
    books, offset = [], 0
    for _ in range(count):
        last, offset = read_varint(data, offset)
        size = 2 * (last + 1)
        if last >= MAX_VALUES or size > len(data) - offset:
            raise MessageError("a codebook's size does not fit the part that holds it.")
        book = np.frombuffer(data, dtype="<f2", count=last + 1, offset=offset).astype(np.float16)
        if not np.all(np.isfinite(book)) or not np.all(book[1:] > book[:-1]):
            raise MessageError("a codebook is not strictly increasing and finite.")
        books.append(book)
        offset += size
    if offset != len(data):
        raise MessageError("bytes are left over after the last codebook.")
    return books
