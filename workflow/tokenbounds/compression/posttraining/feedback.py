"""Rounding a matrix to steps with error feedback, by one of three rules: to nearest, by cost, along a trellis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenbounds.compression.posttraining.ldlq import LdlFactor, ldlq
from tokenbounds.compression.posttraining.rates import RateModel, round_column
from tokenbounds.compression.posttraining.viterbi import quantize_sequences
from tokenbounds.messages.coding.trellis import trellis
from tokenbounds.messages.formats.scaled import ScaledMatrix, steps_of

MAX_CODE = float(1 << 29)
_ROWS_AT_ONCE = 8192

# (targets in steps, column, rows that they are of) -> codes
Choice = Callable[[np.ndarray, int, slice], np.ndarray]


@dataclass(frozen=True)
class FeedbackTask:
    """A weight, its steps, and the rule by which its codes are chosen.

    Attributes
    ----------
    weight : float array [outputs, inputs]
    factor : LdlFactor
        Of the inputs' second moments.
    row_exponents : int32 array [outputs]
    column_exponents : int32 array [inputs]
        Of the steps.
    rates : RateModel, optional
        What codes cost; without it they are the nearest.
    rate_weight : float
        Squared steps that a bit is worth.
    states : int
        Of a trellis along which a column's codes are chosen together; 0: each on its own.
    """

    weight: np.ndarray
    factor: LdlFactor
    row_exponents: np.ndarray
    column_exponents: np.ndarray
    rates: RateModel | None = None
    rate_weight: float = 0.0
    states: int = 0

    def round(self) -> ScaledMatrix:
        """LDLQ onto the grid of the steps."""
        # Outputs are independent given the inputs' moments, if no trellis ties them: so many rows at a time, each part
        # [rows, inputs].
        weight, choose = self.weight, self._choice()
        codes = np.empty(weight.shape, dtype=np.int32)
        row_steps = steps_of(self.row_exponents).astype(np.float64)
        column_steps = steps_of(self.column_exponents).astype(np.float64)
        rows_at_once = len(weight) if self.states else _ROWS_AT_ONCE
        for first in range(0, len(weight), rows_at_once):
            here = slice(first, first + rows_at_once)
            transposed = np.empty((weight.shape[1], len(weight[here])), dtype=np.int32)

            def quantize(
                targets: np.ndarray,
                column: int,
                here: slice = here,
                found: np.ndarray = transposed,
            ) -> np.ndarray:
                # targets [rows, 1]: the column with the errors of those before it; `units` [rows] are its steps.
                units = row_steps[here] * column_steps[column]
                wanted = np.clip(targets[:, 0] / units, -MAX_CODE, MAX_CODE)
                found[column] = choose(wanted, column, here)
                return (found[column] * units)[:, None]

            ldlq(weight[here], self.factor, quantize)
            codes[here] = transposed.T
        return ScaledMatrix(codes, self.row_exponents, self.column_exponents, self.states)

    def _choice(self) -> Choice:
        rates, rate_weight = self.rates, self.rate_weight
        if rates is None:
            return lambda wanted, column, here: np.rint(wanted)
        if not self.states:
            return lambda wanted, column, here: round_column(wanted, column, rates.rows(here), rate_weight)
        machine = trellis(self.states)

        def along(wanted: np.ndarray, column: int, here: slice) -> np.ndarray:
            bands = rates.column_of_bands(column)[:, None]
            return quantize_sequences(wanted[:, None], machine, rates.lengths, rate_weight, bands)[:, 0]

        return along
