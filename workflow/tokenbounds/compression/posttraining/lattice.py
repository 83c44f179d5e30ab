"""QuIP# as a post-training quantizer: rotate, then round eight inputs at a time to the lattice, with feedback."""

from __future__ import annotations

import math

import numpy as np

from tokenbounds.compression.calibration.layers import Matrix, check_calibratable, matrices_of, of_use
from tokenbounds.compression.grids import finite, join_scaled
from tokenbounds.compression.posttraining.kept_codes import CodeStore
from tokenbounds.compression.posttraining.ldlq import ldl_factor, ldlq
from tokenbounds.compression.posttraining.parallel import in_threads
from tokenbounds.compression.posttraining.quantize import open_calibration, quantize_tables
from tokenbounds.compression.subject import Record, Sources
from tokenbounds.compression.transformer import Transformer
from tokenbounds.config.quantizers import QuipSharpQuantizer
from tokenbounds.messages.formats.lattice import (
    RESIDUAL_SCALES,
    LatticeFormat,
    LatticeMatrix,
    Settings,
    round_scale,
)
from tokenbounds.models.pretrained.e8p import SIZE, ball_points, e8p_points, nearest_ball, nearest_e8p
from tokenbounds.models.pretrained.hadamard import rotate_hessian, rotate_weight

# Root mean square of the rotated weights, in units of the lattice, that has the least error for Gaussian values.
_SPREADS = {2: 1.03, 3: 0.98, 4: 1.03}


def quantize_lattice(spec: QuipSharpQuantizer, subject: Transformer, sources: Sources) -> tuple[LatticeFormat, Record]:
    """Quantize a model's linear layers to lattice points, its tables by rounding to nearest.

    Without a calibration, inputs are taken as uncorrelated and equally strong, and there is no feedback.

    Returns
    -------
    quantized : LatticeFormat
    record : dict
        Bits of linear layers and tables, and the calibration's record.

    Raises
    ------
    CalibrationError
        If the model is not supported, or the calibration is another model's.
    MessageError
        If a value is not finite.
    """
    tensors, shapes = subject.tensors, subject.shapes
    check_calibratable(subject.dense_card(spec.kind))
    calibration = open_calibration(sources, subject)
    matrices = matrices_of(subject.structure)
    layers, store = of_use(matrices, "linear"), CodeStore()

    def work(matrix: Matrix) -> LatticeMatrix:
        tensor = finite(matrix.name, tensors[matrix.name])
        moments = calibration.moments(matrix) if calibration else None
        found = round_to_lattice(tensor.T if matrix.transposed else tensor, moments, spec, matrix.name)
        return store.keep_lattice(matrix.name, found)

    rounded = dict(zip((matrix.name for matrix in layers), in_threads(work, layers), strict=True))
    tables, record = quantize_tables(subject, matrices, spec.embedding_bits_per_weight, sources.coder)
    rest = join_scaled(tensors, tables, {name: shape for name, shape in shapes.items() if name not in rounded})
    settings = Settings(spec.bits, spec.seed, any(matrix.transposed for matrix in layers))
    quantized = LatticeFormat(dict(shapes), settings, rounded, rest)
    bits = 8 * len(quantized.to_parts(sources.coder)[-1].content)
    weights = sum(math.prod(shapes[name]) for name in rounded)
    record["linear"] = {"bits": bits, "weights": weights, "bits_per_weight": bits / max(weights, 1)}
    record["calibration"] = dict(calibration.record) if calibration else None
    return quantized, {"quantization": record}


def round_to_lattice(
    weight: np.ndarray, moments: np.ndarray | None, spec: QuipSharpQuantizer, name: str
) -> LatticeMatrix:
    """Round a float32 weight [outputs, inputs], given its inputs' second moments [inputs, inputs] or None."""
    rotated = rotate_weight(weight.astype(np.float64), spec.seed, name)  # [outputs, inputs]
    outputs, inputs = rotated.shape
    scale = round_scale(float(np.sqrt(np.mean(rotated**2))) / _SPREADS[spec.bits])
    codes = np.zeros((outputs, -(-inputs // SIZE)), dtype=np.uint16)  # one for each eight inputs of a row
    residuals = np.zeros_like(codes) if spec.bits > 2 else None
    ratio = RESIDUAL_SCALES[spec.bits]
    search, points = (nearest_ball, ball_points() / 2) if spec.bits == 3 else (nearest_e8p, e8p_points() / 4)

    def quantize(targets: np.ndarray, first: int) -> np.ndarray:
        # targets [outputs, ≤ 8]: the last eight may lack columns, which are rounded as zeros.
        wanted = np.zeros((outputs, SIZE), dtype=np.float32)
        wanted[:, : targets.shape[1]] = targets / scale
        block = first // SIZE
        codes[:, block] = nearest_e8p(wanted)
        values = e8p_points()[codes[:, block]] / 4.0  # [outputs, 8]
        if residuals is not None:
            # What is left over, magnified, is rounded to lattice points of its own.
            residuals[:, block] = search((wanted - values) * ratio)
            values += points[residuals[:, block]] / ratio
        return values[:, : targets.shape[1]] * float(scale)

    if moments is None:
        for first in range(0, inputs, SIZE):
            quantize(rotated[:, first : first + SIZE], first)
    else:
        ldlq(rotated, ldl_factor(rotate_hessian(moments, spec.seed, name), spec.damping), quantize, block=SIZE)
    return LatticeMatrix((codes, residuals), scale)
