"""Codebook quantization: each matrix's values become indices into its own sorted, learned float16 values.

The paper's quantizer (Lotfi et al. 2024, arXiv 2407.18158): k-means, then straight-through fine-tuning. Vectors
(norms, biases) are too short to pay for a codebook; they are coded as in `uniform`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tokenbounds.config.quantizers import CodebookQuantizer, UniformQuantizer
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import Shape, decode_codes, encode_codes
from tokenbounds.messages.container import Message, Part, read_varint, write_varint
from tokenbounds.messages.formats.uniform import UniformQuantized, decode_exponents, encode_exponents

MAX_LEVELS = 256
_VECTOR_SPEC = UniformQuantizer(kind="uniform", step_ratio=0.25)
_ITERATIONS = 64


def learn_codebook(values: np.ndarray, levels: int) -> np.ndarray:
    """Locally optimal codebook of a sample by Lloyd's algorithm, started at quantiles; no randomness.

    Parameters
    ----------
    values : float array [n], n ≥ 1
    levels : int

    Returns
    -------
    float16 array [at most levels]
        Strictly increasing.

    References
    ----------
    S. P. Lloyd, "Least squares quantization in PCM", 1982.
    """
    ordered = np.sort(values.astype(np.float64).reshape(-1))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.unique(np.quantile(ordered, (np.arange(levels) + 0.5) / levels))
    for _ in range(_ITERATIONS):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2, side="right")
        edges = np.concatenate([[0], edges, [ordered.size]])
        counts = np.diff(edges)
        means = np.diff(sums[edges])[counts > 0] / counts[counts > 0]
        if means.size == centres.size and np.allclose(means, centres, rtol=1e-7, atol=0):
            break
        centres = np.unique(means)
    return round_codebook(centres)


def round_codebook(centres: np.ndarray) -> np.ndarray:
    """Strictly increasing float16 values of a codebook, zeros positive."""
    rounded = np.unique(centres.astype(np.float16)) + np.float16(0.0)
    if not np.all(np.isfinite(rounded)):
        raise MessageError("a codebook value is not finite, or beyond what 16 bits hold (65504).")
    return rounded


def nearest_index(values: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Index of the nearest codebook value, ties to the lower; int32, in the shape of `values`."""
    centres = codebook.astype(np.float64)
    edges = (centres[1:] + centres[:-1]) / 2
    return np.searchsorted(edges, values.astype(np.float64), side="left").astype(np.int32)


@dataclass(frozen=True)
class CodebookQuantized:
    """Matrices as indices into codebooks, vectors as in `UniformQuantized`.

    Attributes
    ----------
    names : tuple of str
        All tensors in the model's order.
    indices : dict of str to int32 array
    codebooks : dict of str to float16 array
        Strictly increasing, 1 to 256 values.
    vectors : UniformQuantized
    """

    names: tuple[str, ...]
    indices: dict[str, np.ndarray]
    codebooks: dict[str, np.ndarray]
    vectors: UniformQuantized

    @classmethod
    def quantize(cls, spec: CodebookQuantizer, tensors: Mapping[str, np.ndarray]) -> Self:
        """Learn a codebook a matrix and round to it."""
        codebooks = {}
        for name, tensor in tensors.items():
            if tensor.ndim >= 2:
                if not np.all(np.isfinite(tensor)) or tensor.size == 0:
                    raise MessageError(f"{name} is empty or holds values that are not finite.")
                codebooks[name] = learn_codebook(tensor, spec.levels)
        vectors = {name: tensor for name, tensor in tensors.items() if tensor.ndim < 2}
        return cls.assign(tensors, codebooks, UniformQuantized.quantize(_VECTOR_SPEC, vectors))

    @classmethod
    def assign(
        cls, tensors: Mapping[str, np.ndarray], codebooks: Mapping[str, np.ndarray], vectors: UniformQuantized
    ) -> Self:
        """Round matrices to given codebooks and drop the values that none is rounded to."""
        indices, used_books = {}, {}
        for name, codebook in codebooks.items():
            nearest = nearest_index(tensors[name], codebook)
            used, inverse = np.unique(nearest, return_inverse=True)
            indices[name] = inverse.astype(np.int32).reshape(tensors[name].shape)
            used_books[name] = codebook[used]
        return cls(tuple(tensors), indices, used_books, vectors)

    def dequantize(self) -> dict[str, np.ndarray]:
        """Float32 tensors by name."""
        vectors = self.vectors.dequantize()
        return {
            name: self.codebooks[name].astype(np.float32)[self.indices[name]] if name in self.indices else vectors[name]
            for name in self.names
        }

    def header(self) -> dict[str, Any]:
        """The message's header needs nothing but the kind."""
        return {"kind": "codebook"}

    def symbols(self) -> list[np.ndarray]:
        """Codes of all tensors in the model's order: indices from the value nearest zero, or the vectors' codes."""
        return [
            self.indices[name] - _origin(self.codebooks[name]) if name in self.indices else self.vectors.codes[name]
            for name in self.names
        ]

    def to_parts(self, coder: Coder) -> list[Part]:
        """Codebooks, step exponents of the vectors, symbols."""
        books = [write_varint(len(book) - 1) + book.astype("<f2").tobytes() for book in self.codebooks.values()]
        return [
            Part("codebooks", b"".join(books)),
            Part("scales", encode_exponents(list(self.vectors.exponents.values()))),
            Part("symbols", encode_codes(self.symbols(), coder)),
        ]

    @classmethod
    def from_message(cls, message: Message, shapes: Mapping[str, Shape], coder: Coder) -> Self:
        """Decode the parts that `to_parts` wrote."""
        matrices = [name for name, shape in shapes.items() if len(shape) >= 2]
        vectors = [name for name in shapes if name not in matrices]
        codebooks = dict(zip(matrices, _read_codebooks(message.part("codebooks"), len(matrices)), strict=True))
        exponents = decode_exponents(message.part("scales"), len(vectors))
        codes = dict(zip(shapes, decode_codes(message.part("symbols"), list(shapes.values()), coder), strict=True))
        indices = {}
        for name, codebook in codebooks.items():
            indices[name] = codes[name] + np.int32(_origin(codebook))
            if codes[name].size and not 0 <= int(indices[name].min()) <= int(indices[name].max()) < len(codebook):
                raise MessageError(f"{name} holds an index outside its codebook of {len(codebook)} values.")
        quantized = UniformQuantized(
            {name: codes[name] for name in vectors}, dict(zip(vectors, exponents, strict=True))
        )
        return cls(tuple(shapes), indices, codebooks, quantized)


def _origin(codebook: np.ndarray) -> int:
    """Index of the value nearest zero, the lower of two."""
    return int(np.argmin(np.abs(codebook.astype(np.float64))))


def _read_codebooks(data: bytes, count: int) -> list[np.ndarray]:
    books, offset = [], 0
    for _ in range(count):
        last, offset = read_varint(data, offset)
        size = 2 * (last + 1)
        if last >= MAX_LEVELS or size > len(data) - offset:
            raise MessageError("a codebook's size does not fit the part that holds it.")
        book = np.frombuffer(data, dtype="<f2", count=last + 1, offset=offset).astype(np.float16)
        if not np.all(np.isfinite(book)) or not np.all(book[1:] > book[:-1]):
            raise MessageError("a codebook is not strictly increasing and finite.")
        books.append(book)
        offset += size
    if offset != len(data):
        raise MessageError("bytes are left over behind the last codebook.")
    return books
