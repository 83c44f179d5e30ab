"""LDLQ: rounding the columns of a weight one after the other, each correcting for the errors of those before.

With the inputs' second moments H = E[x xᵀ], rounding W to W − E costs tr(E H Eᵀ). Factor H = (I + U) D (I + U)ᵀ, U
strictly upper triangular and D diagonal; then the cost is Σ_k D_k ‖(E (I + U))_k‖². Column k of E (I + U) is W_k +
Σ_{j<k} E_j U_jk minus what W_k is rounded to: so rounding *this* target, column by column, makes the cost a weighted
sum of the roundings' own errors, with nothing left for feedback to gain.

References
----------
J. Chee et al., "QuIP: 2-bit quantization of large language models with guarantees", 2023 (LDLQ, theorem 1). E. Frantar
et al., "GPTQ", 2022, computes the same roundings from the inverse of H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import solve_triangular

from tokenbounds.compression.posttraining.parallel import rounding_device
from tokenbounds.errors import CalibrationError

DAMPING = 1e-4
PANEL = 128  # columns whose feedback is computed one by one; later columns are updated once per panel
_PRODUCT_VALUES = 1 << 24  # values of a product that is in memory at once, 128 MB

QuantizeBlock = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class LdlFactor:
    """The factorization H = (I + U) D (I + U)ᵀ of damped second moments.

    Attributes
    ----------
    feedback : float64 array [inputs, inputs]
        U, strictly upper triangular.
    diagonal : float64 array [inputs]
        D, positive: the variance of each input that those before it do not explain, given all those after it.
    """

    feedback: np.ndarray
    diagonal: np.ndarray


def ldl_factor(hessian: np.ndarray, damping: float = DAMPING) -> LdlFactor:
    """Factor second moments for `ldlq`.

    Parameters
    ----------
    hessian : float array [inputs, inputs]
        Symmetric and positive semidefinite.
    damping : float
        Added to the diagonal, as a share of its mean. Diagonals are heavy-tailed (the greatest may be 10^4 times the
        median), so 0.01, which is common, swamps most inputs.

    Raises
    ------
    CalibrationError
        If the matrix is not square, not finite, or not positive semidefinite.
    """
    matrix = np.array(hessian, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.all(np.isfinite(matrix)):
        raise CalibrationError("second moments are not a square matrix of finite values. Calibrate again.")
    size = matrix.shape[0]
    mean = float(np.trace(matrix)) / max(size, 1)
    matrix[np.diag_indices(size)] += damping * mean if mean > 0 else 1.0
    try:
        # The Cholesky factor of the reversed matrix is, reversed again, upper triangular.
        upper = _cholesky(matrix[::-1, ::-1])[::-1, ::-1]
    except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:
        raise CalibrationError(
            f"second moments are not positive definite with damping {damping}. Calibrate on more tokens, or raise it."
        ) from error
    del matrix
    roots = np.diag(upper).copy()
    feedback = upper / roots  # upper triangular already
    np.fill_diagonal(feedback, 0.0)
    return LdlFactor(feedback, roots**2)


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    device = rounding_device()
    if device is None:
        return np.linalg.cholesky(matrix)
    return torch.linalg.cholesky(torch.from_numpy(matrix.copy()).to(device)).cpu().numpy()


def ldlq(weight: np.ndarray, factor: LdlFactor, quantize_block: QuantizeBlock, block: int = 1) -> np.ndarray:
    """Round a weight with error feedback.

    Parameters
    ----------
    weight : float array [outputs, inputs]
    factor : LdlFactor
        Of the inputs' second moments.
    quantize_block : function (targets float64 [outputs, block], first column's index) -> values [outputs, block]
        Rounds `block` columns at once; called in column order. The last call may have fewer columns.
    block : int
        Columns per call: 1 for scalar rounding, 8 for an eight-dimensional lattice. Inside a block there is no
        feedback.

    Returns
    -------
    float64 array [outputs, inputs]
        What `quantize_block` returned, column by column.
    """
    outputs, columns = weight.shape
    # Transposed, so that a column of the weight is contiguous; once a column is rounded, its values take its place.
    targets = np.array(weight.T, dtype=np.float64, order="C")
    feedback = _block_feedback(factor.feedback, block).T
    panel = block * max(PANEL // block, 1)
    errors = np.zeros((min(panel, columns), outputs))  # of the columns of this panel
    # The errors reach later columns in products of up to this many rows.
    most = max(_PRODUCT_VALUES // max(outputs, 1), PANEL)
    for start in range(0, columns, panel):
        stop = min(start + panel, columns)
        # Within a panel, targets include the errors made since it began: [block, done] @ [done, outputs].
        for first in range(start, stop, block):
            here = slice(first, min(first + block, stop))
            wanted = targets[here] + feedback[here, start:first] @ errors[: first - start]
            targets[here] = np.asarray(quantize_block(wanted.T, first)).T
            errors[first - start : here.stop - start] = weight.T[here] - targets[here]
        # The panel's errors reach all later columns: [behind, panel] @ [panel, outputs].
        for first in range(stop, columns, most):
            behind = slice(first, first + most)
            targets[behind] += feedback[behind, start:stop] @ errors[: stop - start]
    return targets.T


def _block_feedback(feedback: np.ndarray, block: int) -> np.ndarray:
    """U of the block factorization: zero inside blocks, (I + U) divided by its own diagonal blocks."""
    if block == 1:
        return feedback
    size = feedback.shape[0]
    result = np.zeros_like(feedback)
    for first in range(0, size, block):
        here = slice(first, min(first + block, size))
        corner = feedback[here, here] + np.eye(here.stop - here.start)
        result[:first, here] = solve_triangular(corner, feedback[:first, here].T, trans="T", unit_diagonal=True).T
    return result
