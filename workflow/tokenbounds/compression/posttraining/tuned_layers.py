"""A quantized model whose steps, norms and biases can be trained while its codes stay as they are.

A layer's weight is (codes × row steps) × column steps. The steps go to its inputs and outputs, y = r ⊙ (C (c ⊙ x)), so
that the codes C are multiplied as they are and need no gradient. Steps, and values of norms and biases, are always on
the message's grids: forwards they are rounded, backwards rounding is the identity (Bengio et al. 2013, arXiv
1308.3432).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from tokenbounds.compression.calibration.layers import Matrix
from tokenbounds.compression.grids import round_to_steps
from tokenbounds.compression.trainable import straight_through
from tokenbounds.messages.formats.grid import STEPS_PER_OCTAVE, GridTensors, default_value, step_of
from tokenbounds.messages.formats.scaled import (
    GREATEST_EXPONENT,
    LEAST_EXPONENT,
    ScaledFormat,
    ScaledMatrix,
)


class TunedSteps(nn.Module):
    """Steps on the logarithmic grid; what is trained is how far each has moved, in octaves."""

    base: torch.Tensor

    def __init__(self, exponents: np.ndarray) -> None:
        super().__init__()
        self.moved = nn.Parameter(torch.zeros(len(exponents)))
        self.register_buffer("base", torch.from_numpy(exponents.astype(np.float32)))

    def forward(self) -> torch.Tensor:
        """The steps, float32 [n]."""
        whole = torch.round(self.moved.detach() * STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE
        return torch.exp2(self.base / STEPS_PER_OCTAVE + straight_through(self.moved, whole))

    def exponents(self) -> np.ndarray:
        """The steps as a message holds them, int32 [n]."""
        found = self.base + torch.round(self.moved.detach() * STEPS_PER_OCTAVE)
        return found.clamp(LEAST_EXPONENT, GREATEST_EXPONENT).cpu().numpy().astype(np.int32)


class TunedMatrix(nn.Module):
    """Codes [rows, columns] with steps that are trained: of a layer, or of a table and a head that share it."""

    codes: torch.Tensor
    centre: torch.Tensor | None

    def __init__(self, matrix: ScaledMatrix, dtype: torch.dtype) -> None:
        super().__init__()
        # Codes up to 256 are exact in bfloat16, and larger ones are too rare to matter for the search for steps.
        self.register_buffer("codes", torch.from_numpy(np.ascontiguousarray(matrix.codes)).to(dtype))
        # What is added to every row stays as it is, like the codes.
        self.register_buffer("centre", None if matrix.centre is None else torch.from_numpy(matrix.centre.values()))
        self.rows = TunedSteps(matrix.row_exponents)
        self.columns = TunedSteps(matrix.column_exponents)

    def times(self, values: torch.Tensor, *, transposed: bool = False) -> torch.Tensor:
        """Products with float32 `values` [..., columns], float32 [..., rows]; or the other way round."""
        first, last = (self.rows, self.columns) if transposed else (self.columns, self.rows)
        scaled = (values * first()).to(self.codes.dtype)
        product = scaled @ self.codes if transposed else functional.linear(scaled, self.codes)
        outputs = product.float() * last()
        if self.centre is None:
            return outputs
        assert not transposed, "no matrix with a centre is stored transposed"
        return outputs + (values @ self.centre)[..., None]

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows by number, float32 [..., columns]."""
        found = self.codes[ids].float() * self.rows()[ids][..., None] * self.columns()
        return found if self.centre is None else found + self.centre

    def settle(self, matrix: ScaledMatrix) -> ScaledMatrix:
        """The matrix with the steps as they are now."""
        exponents = self.rows.exponents(), self.columns.exponents()
        return ScaledMatrix(matrix.codes, *exponents, matrix.states, matrix.transposed, matrix.centre)


class TunedLayer(nn.Module):
    """In place of a linear layer, or of a head."""

    def __init__(self, matrix: TunedMatrix, bias: nn.Parameter | None, transposed: bool) -> None:
        super().__init__()
        self.matrix, self.bias, self._transposed = matrix, bias, transposed

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs in float32."""
        product = self.matrix.times(inputs.float(), transposed=self._transposed)
        return product if self.bias is None else product + self.bias


class TunedTable(nn.Module):
    """In place of an embedding."""

    def __init__(self, matrix: TunedMatrix) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the table in float32."""
        return self.matrix.lookup(ids)


class OnGrid(nn.Module):
    """Values of a norm or a bias, rounded to multiples of a step counted from a default."""

    def __init__(self, default: float, step: float) -> None:
        super().__init__()
        self._default, self._step = default, step

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest values of the grid."""
        rounded = torch.round((values.detach() - self._default) / self._step) * self._step + self._default
        return straight_through(values, rounded)


class TunedModel:
    """A model with trainable steps, norms and biases, made of its quantized form.

    Parameters
    ----------
    model : PreTrainedModel
        Of the same architecture, whatever its values; it is changed, and owned from now on.
    scaled : ScaledFormat
    matrices : sequence of Matrix
    dtype : torch.dtype
        Of the products with codes; all else is float32.
    """

    def __init__(
        self, model: PreTrainedModel, scaled: ScaledFormat, matrices: list[Matrix], dtype: torch.dtype
    ) -> None:
        self.model, self._scaled = model, scaled
        self._tuned = {matrix.name: TunedMatrix(scaled.matrices[matrix.name], dtype) for matrix in matrices}
        model.requires_grad_(False)
        for matrix in matrices:
            owner, tuned = matrix.name.rpartition(".")[0], self._tuned[matrix.name]
            if matrix.use in ("lookup", "tied"):
                model.set_submodule(owner, TunedTable(tuned))
            else:
                bias = getattr(model.get_submodule(owner), "bias", None)
                model.set_submodule(owner, TunedLayer(tuned, bias, matrix.transposed))
            if matrix.use == "tied":
                model.set_submodule("lm_head", TunedLayer(tuned, None, transposed=False))
        self._vectors = dict(self._watch_vectors())

    def _watch_vectors(self) -> list[tuple[str, nn.Parameter]]:
        found = []
        quantized = self._scaled.vectors.dequantize()
        for name, exponent in self._scaled.vectors.exponents.items():
            owner, _, leaf = name.rpartition(".")
            module, value = self.model.get_submodule(owner), self.model.get_parameter(name)
            value.data = torch.from_numpy(quantized[name].copy())
            value.requires_grad_(True)
            grid = OnGrid(float(default_value(name, value.shape)), float(step_of(exponent)))
            parametrize.register_parametrization(module, leaf, grid)
            found.append((name, value))
        return found

    def steps(self) -> list[nn.Parameter]:
        """How far steps have moved, in octaves."""
        return [side.moved for matrix in self._tuned.values() for side in (matrix.rows, matrix.columns)]

    def vectors(self) -> list[nn.Parameter]:
        """Norms and biases."""
        return [value for _, value in self._vectors.items()]

    def settle(self) -> ScaledFormat:
        """The message's form of the model as it is now; all codes of matrices are those it started from."""
        matrices = {name: self._tuned[name].settle(matrix) for name, matrix in self._scaled.matrices.items()}
        values = {name: value.detach().cpu().numpy() for name, value in self._vectors.items()}
        vectors: GridTensors = round_to_steps(values, self._scaled.vectors.exponents)
        return ScaledFormat(self._scaled.shapes, matrices, vectors)
