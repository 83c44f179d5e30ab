"""Rounding to grids: the steps of tensors from their spread, and their codes."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import numpy as np

from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.tensors import Shape
from tokenbounds.messages.formats.grid import GridTensors, default_value, exponent_of, step_of
from tokenbounds.messages.formats.scaled import ScaledFormat, ScaledMatrix

VECTOR_RATIO = 0.25  # step of vectors in messages of other formats, before it is made finer
_VECTOR_FINENESS = 8.0  # norms and biases are few and matter much: their steps are finer by this factor
# Norms of pretrained models are far from their default of one, some a tenth of it: there the difference from the
# default says nothing about how fine a step must be. This is its largest share of the values' own root mean square.
_VECTOR_PRECISION = 1 / 128
_MOST_STEPS = 1 << 29


def round_by_spread(
    tensors: Mapping[str, np.ndarray], step_ratio: float, codes: MutableMapping[str, np.ndarray] | None = None
) -> GridTensors:
    """Round to steps of `step_ratio` × the root mean square of differences from the default, more finely for vectors.

    Parameters
    ----------
    tensors : mapping of str to float32 array, any shapes
        Each is asked for once.
    step_ratio : float
    codes : mapping, optional
        Where the codes are kept; by default in memory.

    Raises
    ------
    MessageError
        If a value is not finite, or too large for its step.
    """
    codes, exponents = {} if codes is None else codes, {}
    for name, tensor in tensors.items():
        exponents[name] = exponent_by_spread(name, tensor, step_ratio)
        codes[name] = nearest_codes(name, tensor, step_of(exponents[name])).astype(np.int32)
    return GridTensors(codes, exponents)


def exponent_by_spread(name: str, tensor: np.ndarray, step_ratio: float) -> int:
    """The step's exponent of one tensor in `round_by_spread`.

    Raises
    ------
    MessageError
        If a value is not finite.
    """
    if not np.all(np.isfinite(tensor)):
        raise MessageError(f"{name} holds values that are not finite. Train or load the model again.")
    offset = tensor.astype(np.float64)
    offset -= default_value(name, tensor.shape)
    ratio = step_ratio if tensor.ndim >= 2 else step_ratio / _VECTOR_FINENESS
    return exponent_of(ratio * float(np.sqrt(np.mean(offset**2))) if tensor.size else 0.0)


def round_vectors(vectors: Mapping[str, np.ndarray]) -> GridTensors:
    """Norms and biases of a pretrained model, with an error of a few thousandths of their root mean square at most.

    Steps are those of `round_by_spread` or, if these are finer, 1/128 of the root mean square of the values.

    Raises
    ------
    MessageError
        As in `round_by_spread`.
    """
    exponents = {}
    for name, vector in vectors.items():
        exponents[name] = exponent_by_spread(name, vector, VECTOR_RATIO)
        size = float(np.sqrt(np.mean(vector.astype(np.float64) ** 2))) if vector.size else 0.0
        if size > 0:
            exponents[name] = min(exponents[name], exponent_of(_VECTOR_PRECISION * size))
    return round_to_steps(vectors, exponents)


def round_to_steps(tensors: Mapping[str, np.ndarray], exponents: Mapping[str, int]) -> GridTensors:
    """Round to the given steps, halves to even."""
    codes = {}
    for name, tensor in tensors.items():
        codes[name] = nearest_codes(name, tensor, step_of(exponents[name])).astype(np.int32)
    return GridTensors(codes, dict(exponents))


def nearest_codes(name: str, tensor: np.ndarray, step: np.float32) -> np.ndarray:
    """The nearest multiples of a step, counted from the tensor's default: int64, in the shape of the tensor.

    Raises
    ------
    MessageError
        If there are more than 2^29 steps to a value, or it is not finite.
    """
    # In place: a tensor may be as large as an embedding.
    scaled = tensor.astype(np.float64)
    scaled -= default_value(name, tensor.shape)
    scaled /= step
    if not np.all(np.abs(scaled) < _MOST_STEPS):
        raise MessageError(f"{name} holds values that are not finite, or too large for the step {step}.")
    return np.rint(scaled, out=scaled).astype(np.int64)


def join_scaled(
    tensors: Mapping[str, np.ndarray],
    matrices: Mapping[str, ScaledMatrix],
    shapes: Mapping[str, Shape] | None = None,
) -> ScaledFormat:
    """Quantized matrices, and the vectors among `tensors` rounded finely: a whole model, in its own order.

    Only tensors with `shapes` are part of it; without, all are.
    """
    shapes = shapes or {name: tensor.shape for name, tensor in tensors.items()}
    vectors = {name: tensors[name] for name, shape in shapes.items() if len(shape) < 2}
    found = {name: matrices[name] for name in shapes if name in matrices}
    return ScaledFormat(dict(shapes), found, round_vectors(vectors))


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
