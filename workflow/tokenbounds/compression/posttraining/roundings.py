"""How each post-training quantizer rounds a matrix, given the scale of its steps.

Matrices are upright here, [outputs, inputs], however the model stores them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from tokenbounds.compression.calibration.layers import Matrix
from tokenbounds.compression.calibration.store import Calibration
from tokenbounds.compression.posttraining.feedback import MAX_CODE, FeedbackTask
from tokenbounds.compression.posttraining.feedback_on_device import round_on_device
from tokenbounds.compression.posttraining.ldlq import LdlFactor, ldl_factor
from tokenbounds.compression.posttraining.rates import RateModel
from tokenbounds.config.quantizers import GptqQuantizer, QuipQuantizer, RtnQuantizer, WatersicQuantizer
from tokenbounds.messages.formats import Format
from tokenbounds.messages.formats.grid import STEPS_PER_OCTAVE, exponent_of, step_of
from tokenbounds.messages.formats.rotated import RotatedFormat
from tokenbounds.messages.formats.scaled import (
    LEAST_EXPONENT,
    Centre,
    ScaledFormat,
    ScaledMatrix,
    exponents_of,
    steps_of,
)
from tokenbounds.models.pretrained.hadamard import rotate_weight, weight_rotations

_ROWS_AT_ONCE = 8192  # rows that are rounded together where they are independent
# A bit is worth about 0.36 squared steps on the grid of both cosets; each coset alone has steps twice as large.
_TRELLIS_RATE_WEIGHT = 3.0
# Sensitivity that every row has at least, as a share of the mean, for what calibration did not see.
_UNSEEN = 0.05  # of a table
# Step of a centre, as a share of its root mean square: codes make up for its error, so that it need not be fine.
_CENTRE_STEP = 1 / 16
# Of a linear layer. A unit that was almost never active would get so large a step that errors in other layers activate
# it.
_QUIET = 0.3


class Unrounded(NamedTuple):
    """A matrix, its float32 weight [outputs, inputs], and what was learned from the codes of its previous round."""

    matrix: Matrix
    weight: np.ndarray
    rates: RateModel | None


class Rounding(ABC):
    """A way to round matrices, made of a quantizer's row and the model's calibration.

    Attributes
    ----------
    calibrated
        Whether there must be a calibration.
    """

    calibrated: ClassVar[bool] = True

    @abstractmethod
    def __init__(self, spec: Any, calibration: Any) -> None: ...

    @abstractmethod
    def round(self, matrix: Matrix, weight: np.ndarray, scale: float, rates: RateModel | None) -> ScaledMatrix:
        """Round a float32 weight [outputs, inputs].

        Parameters
        ----------
        matrix : Matrix
        weight : float32 array [outputs, inputs]
        scale : float
            Common factor of all steps.
        rates : RateModel, optional
            Learned from the codes of the previous round.
        """

    def round_together(self, items: Sequence[Unrounded], scale: float, device: torch.device) -> list[ScaledMatrix]:
        """As `round`, for matrices of one shape, with torch on a device where a way has steps that run there."""
        return [self.round(item.matrix, item.weight, scale, item.rates) for item in items]

    def unit(self, matrix: Matrix, weight: np.ndarray) -> float:
        """About the scale at which codes have a root mean square of one."""
        return 1.0

    def finish(self, scaled: ScaledFormat, matrices: Sequence[Matrix]) -> Format:
        """The message's format of a model whose matrices were rounded this way."""
        return scaled


class RoundToNearest(Rounding):
    """Steps are `scale` × root mean square of each row (or of the tensor), values the nearest multiples."""

    calibrated = False

    def __init__(self, spec: RtnQuantizer | None = None, calibration: Calibration | None = None) -> None:
        self._steps = "row" if spec is None else spec.steps

    def round(self, matrix: Matrix, weight: np.ndarray, scale: float, rates: RateModel | None) -> ScaledMatrix:
        """See `Rounding`."""
        row_exponents = rms_exponents(weight, scale, self._steps)
        return round_plainly(weight, row_exponents, np.zeros(weight.shape[1], dtype=np.int32))


class FeedbackRounding(Rounding):
    """A way that rounds column by column with error feedback: it says to which steps, and by what rule."""

    @abstractmethod
    def task(
        self, matrix: Matrix, weight: np.ndarray, scale: float, rates: RateModel | None
    ) -> FeedbackTask | ScaledMatrix:
        """What is to be done, or the rounded matrix if it needs no feedback; arguments are those of `round`."""

    def round(self, matrix: Matrix, weight: np.ndarray, scale: float, rates: RateModel | None) -> ScaledMatrix:
        """See `Rounding`."""
        task = self.task(matrix, weight, scale, rates)
        return task.round() if isinstance(task, FeedbackTask) else task

    def round_together(self, items: Sequence[Unrounded], scale: float, device: torch.device) -> list[ScaledMatrix]:
        """See `Rounding`."""
        tasks = [self.task(item.matrix, item.weight, scale, item.rates) for item in items]
        found = iter(round_on_device([task for task in tasks if isinstance(task, FeedbackTask)], device))
        return [next(found) if isinstance(task, FeedbackTask) else task for task in tasks]


class ErrorFeedback(FeedbackRounding):
    """Steps as in `RoundToNearest`, linear layers rounded with error feedback."""

    def __init__(self, spec: GptqQuantizer, calibration: Calibration) -> None:
        self._spec, self._calibration = spec, calibration

    def task(
        self, matrix: Matrix, weight: np.ndarray, scale: float, rates: RateModel | None
    ) -> FeedbackTask | ScaledMatrix:
        """See `FeedbackRounding`."""
        row_exponents = rms_exponents(weight, scale, self._spec.steps)
        column_exponents = np.zeros(weight.shape[1], dtype=np.int32)
        if matrix.use != "linear":
            return round_plainly(weight, row_exponents, column_exponents)
        factor = ldl_factor(self._calibration.moments(matrix), self._spec.damping)
        return FeedbackTask(weight, factor, row_exponents, column_exponents)


class RotatedFeedback(FeedbackRounding):
    """Linear layers rotated on both sides, one step each, rounded with error feedback."""

    def __init__(self, spec: QuipQuantizer, calibration: Calibration) -> None:
        self._spec, self._calibration = spec, calibration

    def task(
        self, matrix: Matrix, weight: np.ndarray, scale: float, rates: RateModel | None
    ) -> FeedbackTask | ScaledMatrix:
        """See `FeedbackRounding`; codes of a linear layer are those of the rotated weight."""
        column_exponents = np.zeros(weight.shape[1], dtype=np.int32)
        if matrix.use != "linear":
            return round_plainly(weight, rms_exponents(weight, scale, "row"), column_exponents)
        # The decoder rotates back what is stored, so the rotations are those of the stored shape: R W Qᵀ.
        stored = weight.T if matrix.transposed else weight
        rotated = rotate_weight(np.ascontiguousarray(stored), self._spec.seed, matrix.name)
        upright = np.ascontiguousarray(rotated.T) if matrix.transposed else rotated
        # Inputs are rotated along with the weight's columns: their second moments become Q H Qᵀ, [inputs, inputs].
        inputs = weight_rotations(stored.shape, self._spec.seed, matrix.name)[0 if matrix.transposed else 1]
        half = inputs.apply(self._calibration.moments(matrix).astype(np.float64))
        moments = inputs.apply(np.ascontiguousarray(half.T))
        factor = ldl_factor(moments, self._spec.damping)
        return FeedbackTask(upright, factor, rms_exponents(upright, scale, "tensor"), column_exponents)

    def finish(self, scaled: ScaledFormat, matrices: Sequence[Matrix]) -> Format:
        """All matrices rotated, except those that are not linear layers."""
        plain = tuple(index for index, matrix in enumerate(matrices) if matrix.use != "linear")
        return RotatedFormat(scaled, self._spec.seed, plain)


class SensitivitySteps(FeedbackRounding):
    """Steps by sensitivity of rows and columns, feedback, and rate–distortion-optimised rounding."""

    def __init__(self, spec: WatersicQuantizer, calibration: Calibration) -> None:
        self._spec, self._calibration = spec, calibration
        # Layers that share their inputs follow each other. A factorization takes several copies of the moments: one at
        # a time.
        self._factor, self._factoring = lru_cache(maxsize=1)(self._factor_of), Lock()

    def round(self, matrix: Matrix, weight: np.ndarray, scale: float, rates: RateModel | None) -> ScaledMatrix:
        """See `Rounding`; a table is centred first, if it is to be."""
        if not self._is_centred(matrix):
            return super().round(matrix, weight, scale, rates)
        centre = centre_of(weight)
        return replace(super().round(matrix, weight - centre.values(), scale, rates), centre=centre)

    def round_together(self, items: Sequence[Unrounded], scale: float, device: torch.device) -> list[ScaledMatrix]:
        """See `Rounding`."""
        centres = [centre_of(item.weight) if self._is_centred(item.matrix) else None for item in items]
        shifted = [
            item if centre is None else item._replace(weight=item.weight - centre.values())
            for item, centre in zip(items, centres, strict=True)
        ]
        rounded = super().round_together(shifted, scale, device)
        return [replace(found, centre=centre) for found, centre in zip(rounded, centres, strict=True)]

    def _is_centred(self, matrix: Matrix) -> bool:
        return self._spec.centred_tables and matrix.use != "linear" and not matrix.transposed

    def task(
        self, matrix: Matrix, weight: np.ndarray, scale: float, rates: RateModel | None
    ) -> FeedbackTask | ScaledMatrix:
        """See `FeedbackRounding`."""
        # With g = sensitivity [outputs] and D [inputs], steps scale / √(g_r · D_k) make all errors cost the same loss.
        factor, sensitivity = self._sensitivity(matrix)
        row_exponents = staggered_exponents(scale / np.sqrt(sensitivity))
        column_exponents = exponents_of(1 / np.sqrt(factor.diagonal))
        if self._spec.rate_weight == 0:
            return FeedbackTask(weight, factor, row_exponents, column_exponents)
        if self._spec.trellis is None:
            rates = rates or RateModel.fit(round_plainly(weight, row_exponents, column_exponents).codes)
            return FeedbackTask(weight, factor, row_exponents, column_exponents, rates, self._spec.rate_weight)
        # Every other point of a grid twice as fine.
        row_exponents = np.maximum(row_exponents - STEPS_PER_OCTAVE, LEAST_EXPONENT)
        rates = rates or RateModel.fit(round_plainly(weight, row_exponents, column_exponents).codes, grids=2)
        rate_weight = _TRELLIS_RATE_WEIGHT * self._spec.rate_weight
        return FeedbackTask(weight, factor, row_exponents, column_exponents, rates, rate_weight, self._spec.trellis)

    def unit(self, matrix: Matrix, weight: np.ndarray) -> float:
        """See `Rounding`."""
        factor, sensitivity = self._sensitivity(matrix)
        if self._is_centred(matrix):
            weight = weight - centre_of(weight).values()
        means = [np.mean(part.astype(np.float64) ** 2 * factor.diagonal, axis=1) for part in parts_of(weight)]
        return float(np.sqrt(np.concatenate(means) @ sensitivity / len(weight)))

    def _sensitivity(self, matrix: Matrix) -> tuple[LdlFactor, np.ndarray]:
        """The factor of a matrix's inputs and the sensitivity of its outputs."""
        if matrix.use == "linear":
            sensitivity = with_floor(self._calibration.outputs(matrix).astype(np.float64), _QUIET)
            with self._factoring:
                return self._factor(matrix.group), sensitivity
        moments, sensitivity = table_sensitivity(self._calibration, matrix)
        return ldl_factor(moments, self._spec.damping), sensitivity

    def _factor_of(self, group: str) -> LdlFactor:
        moments = self._calibration.moments(Matrix("", "linear", False, group))
        return ldl_factor(moments, self._spec.damping)


def table_sensitivity(calibration: Calibration, matrix: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Second moments and row sensitivities of an embedding or head; their products nearly are its rows' Hessians.

    As a head, row v has the Hessian a_v H: a_v is the mean of p_v (1 − p_v), H the final hidden states' moments. As a
    table it has b_v G: b_v is how often v is looked up, G the gradients' moments. Of a tied matrix, which is both, the
    sum over rows, H Σa + G Σb, is kept exactly, and each row's trace.

    Returns
    -------
    moments : float64 array [n, n]
    sensitivity : float64 array [rows]
    """
    parts = []
    if matrix.use in ("head", "tied"):
        parts.append((calibration.moments(matrix), calibration.outputs(matrix)))
    if matrix.use in ("lookup", "tied"):
        parts.append((calibration.lookup_moments(), calibration.row_frequencies(matrix)))
    # (H or G [n, n], a or b [rows])
    weighted = [(moments.astype(np.float64), with_floor(rows.astype(np.float64), _UNSEEN)) for moments, rows in parts]
    moments = sum((part * rows.sum() for part, rows in weighted), np.zeros_like(weighted[0][0]))
    traces = sum((np.trace(part) * rows for part, rows in weighted), np.zeros_like(weighted[0][1]))
    return moments, traces / max(float(np.trace(moments)), 1e-300)


def centre_of(weight: np.ndarray) -> Centre:
    """The mean of a weight's rows [rows, columns], roughly rounded."""
    sums = np.sum([part.sum(axis=0, dtype=np.float64) for part in parts_of(weight)], axis=0)
    mean = sums / max(len(weight), 1)
    exponent = exponent_of(_CENTRE_STEP * float(np.sqrt(np.mean(mean**2))))
    return Centre(np.rint(mean / step_of(exponent)).astype(np.int32), exponent)


def parts_of(array: np.ndarray) -> Iterator[np.ndarray]:
    """Views of some rows at a time: a large vocabulary need not be held in float64 as a whole."""
    for first in range(0, max(len(array), 1), _ROWS_AT_ONCE):
        yield array[first : first + _ROWS_AT_ONCE]


def with_floor(values: np.ndarray, share: float) -> np.ndarray:
    """Values plus a share of their mean; ones if all are zero."""
    mean = float(values.mean())
    return values + share * mean if mean > 0 else np.ones_like(values)


def rms_exponents(weight: np.ndarray, scale: float, steps: str) -> np.ndarray:
    """Exponents of the row steps `scale` × root mean square, of each row or of all together."""
    squares = np.concatenate([np.mean(part.astype(np.float64) ** 2, axis=1) for part in parts_of(weight)])
    if steps == "tensor":
        squares = np.full_like(squares, squares.mean())
    return exponents_of(scale * np.sqrt(squares))


def staggered_exponents(steps: np.ndarray) -> np.ndarray:
    """Exponents of row steps; equal steps are not all rounded the same way.

    Most tokens of a vocabulary occur too rarely in a calibration for their sensitivities to differ. If all their steps
    moved at once, no scale would meet some targets.
    """
    spread = (np.arange(len(steps)) + 0.5) / len(steps) - 0.5
    return exponents_of(steps * np.exp2(spread / STEPS_PER_OCTAVE))


def round_plainly(weight: np.ndarray, row_exponents: np.ndarray, column_exponents: np.ndarray) -> ScaledMatrix:
    """The nearest multiples of the steps."""
    row_steps, codes = steps_of(row_exponents).astype(np.float64), np.empty(weight.shape, dtype=np.int32)
    for part, steps, found in zip(parts_of(weight), parts_of(row_steps), parts_of(codes), strict=True):
        units = steps[:, None] * steps_of(column_exponents)  # [rows, columns]
        found[:] = np.clip(np.rint(part / units), -MAX_CODE, MAX_CODE)
    return ScaledMatrix(codes, row_exponents, column_exponents)
