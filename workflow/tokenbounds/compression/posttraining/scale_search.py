"""From a target to a scale of the steps: a search over encodings, and the quantized model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tokenbounds.compression.calibration.layers import Matrix
from tokenbounds.compression.grids import finite
from tokenbounds.compression.posttraining.rates import RateModel
from tokenbounds.compression.posttraining.roundings import Rounding
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import encode_codes
from tokenbounds.messages.formats.scaled import ScaledMatrix, encode_scales
from tokenbounds.progress import Progress

LOGGER = logging.getLogger(__name__)
TOLERANCE = 0.01
_SLACK_BITS = 400  # tiny models have no size within 1 %
_ROUGH_TOLERANCE = 0.02
_EVALUATIONS = 12
_LEAST_STEP = 0.02  # octaves of the scale
_SAMPLED_WEIGHTS = 20_000_000  # a rough scale is found on as many weights


@dataclass
class Rounder:
    """Rounds the matrices of a model repeatedly, each time with code lengths learned the time before.

    Attributes
    ----------
    rounding : Rounding
    tensors : mapping of str to float32 array
    seen : dict of str to RateModel
        By matrix, of the last round.
    """

    rounding: Rounding
    tensors: Mapping[str, np.ndarray]
    seen: dict[str, RateModel] = field(default_factory=dict)

    def round(self, matrices: Sequence[Matrix], scale: float) -> dict[str, ScaledMatrix]:
        """Quantized matrices by name, as they are stored."""
        rounded = {}
        progress = Progress(LOGGER, sum(self.tensors[matrix.name].size for matrix in matrices), "weights", "rounded")
        for matrix in matrices:
            result = self.rounding.round(matrix, self.upright(matrix), scale, self.seen.get(matrix.name))
            self.seen[matrix.name] = RateModel.fit(result.codes, grids=2 if result.states else 1)
            rounded[matrix.name] = result.transpose() if matrix.transposed else result
            progress.add(result.codes.size, f"scale {scale:.4g}")
        return rounded

    def upright(self, matrix: Matrix) -> np.ndarray:
        """A matrix's values as [outputs, inputs]."""
        tensor = finite(matrix.name, self.tensors[matrix.name])
        return np.ascontiguousarray(tensor.T) if matrix.transposed else tensor

    def estimated_bits(self, matrices: Sequence[Matrix], scale: float) -> float:
        """What the codes of a round cost by their own code lengths; steps are not included."""
        rounded = self.round(matrices, scale)
        bits = 0.0
        for matrix in matrices:
            stored = rounded[matrix.name]
            bits += self.seen[matrix.name].bits((stored.transpose() if matrix.transposed else stored).codes)
        return bits


def encoded_bits(matrices: Mapping[str, ScaledMatrix], coder: Coder = "adaptive") -> int:
    """Bits that codes and steps take when they are coded alone."""
    machines = [matrix.machine for matrix in matrices.values()]
    codes = encode_codes([matrix.coded for matrix in matrices.values()], coder, machines)
    return 8 * (len(codes) + len(encode_scales(list(matrices.values()), [])))


def find_scale(bits: Callable[[float], float], wanted: float, guess: float, slack: float | None = None) -> float:
    """The scale at which a decreasing function is `wanted`, to within `slack` (by default 1 % and 50 bytes).

    The secant method on the logarithm of the scale, kept inside the known bracket. The function may drift as code
    lengths are learned, so a side of the bracket that two steps in a row did not move is discarded.

    Raises
    ------
    MessageError
        If it is not met in twelve evaluations: the target lies outside what the model allows.
    """
    slack = TOLERANCE * wanted + _SLACK_BITS if slack is None else slack
    position = float(np.log2(guess))
    known: list[tuple[float, float]] = []
    for _ in range(_EVALUATIONS):
        found = bits(2.0**position)
        LOGGER.info("scale %.5g: %.0f bits, wanted %.0f", 2.0**position, found, wanted)
        if abs(found - wanted) <= slack:
            return 2.0**position
        # Twice on the same side: the other side of the bracket may have drifted, so it is found again.
        if known and (known[-1][1] > wanted) == (found > wanted):
            known = [point for point in known if (point[1] > wanted) == (found > wanted)]
        known.append((position, found))
        position = _next_position(sorted(known), wanted)
    raise MessageError(
        f"no scale gives a size within {slack:.0f} of {wanted:.0f} bits; the last one tried gives {found:.0f}. "
        "Choose another target."
    )


def _next_position(known: Sequence[tuple[float, float]], wanted: float) -> float:
    # Points (log2 of the scale, bits) in order of the scale: bits fall, so the finer ones come first.
    finer = [point for point in known if point[1] > wanted]
    coarser = [point for point in known if point[1] <= wanted]
    if not finer or not coarser:
        position, size = finer[-1] if finer else coarser[0]
        # No bracket yet: move by twice the logarithm of the ratio of sizes, in octaves, at most four.
        step = np.clip(np.log2(max(size, 1.0) / wanted) * 2, -4, 4)
        return float(position + (max(step, _LEAST_STEP) if finer else min(step, -_LEAST_STEP)))
    (low, above), (high, below) = finer[-1], coarser[0]
    share = (above - wanted) / (above - below) if above > below else 0.5
    return low + (high - low) * float(np.clip(share, 0.05, 0.95))


def rough_scale(rounder: Rounder, matrices: Sequence[Matrix], bits_per_weight: float) -> float:
    """A scale at which a sample of the matrices takes about this many bits per weight, by estimate."""
    sizes = {matrix.name: rounder.tensors[matrix.name].size for matrix in matrices}
    stride = max(1, round(sum(sizes.values()) / _SAMPLED_WEIGHTS))
    sample = _every(matrices, stride)
    weights = sum(sizes[matrix.name] for matrix in sample)
    units = [rounder.rounding.unit(matrix, rounder.upright(matrix)) for matrix in sample]
    guess = float(np.exp(np.mean(np.log(np.maximum(units, 1e-30)))))
    trial = Rounder(rounder.rounding, rounder.tensors)
    wanted = bits_per_weight * weights
    return find_scale(lambda scale: trial.estimated_bits(sample, scale), wanted, guess, _ROUGH_TOLERANCE * wanted)


def _every(matrices: Sequence[Matrix], stride: int) -> list[Matrix]:
    """Every `stride`-th matrix of each kind of layer, so that the sample resembles the whole."""
    seen: dict[str, int] = {}
    sample = []
    for matrix in matrices:
        kind = matrix.name.rpartition(".")[0].rpartition(".")[2]
        if seen.get(kind, 0) % stride == 0:
            sample.append(matrix)
        seen[kind] = seen.get(kind, 0) + 1
    return sample
