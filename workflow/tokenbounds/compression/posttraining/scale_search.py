"""From a target to a scale of the steps: a search over encodings, and the quantized model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tokenbounds.compression.calibration.layers import Matrix
from tokenbounds.compression.grids import finite
from tokenbounds.compression.posttraining.kept_codes import CodeStore
from tokenbounds.compression.posttraining.parallel import in_threads
from tokenbounds.compression.posttraining.rates import RateModel
from tokenbounds.compression.posttraining.roundings import Rounding, Unrounded
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.symbols import Coder
from tokenbounds.messages.coding.tensors import CodeSequence, Shape, encode_codes
from tokenbounds.messages.formats.scaled import ScaledMatrix, encode_scales
from tokenbounds.progress import Progress

LOGGER = logging.getLogger(__name__)
TOLERANCE = 0.01
SLACK_BITS = 400  # tiny models have no size within 1 %
_ROUGH_TOLERANCE = 0.02
_EVALUATIONS = 12
_LEAST_STEP = 0.02  # octaves of the scale
_SAMPLED_WEIGHTS = 8_000_000  # a scale is looked for on as many weights
_CODED_TOGETHER = 1 << 24  # weights
_ROUNDED_TOGETHER = 1 << 28  # values of the weights and second moments of matrices that a device rounds side by side


@dataclass
class Rounder:
    """Rounds the matrices of a model repeatedly, each time with code lengths learned the time before.

    Attributes
    ----------
    rounding : Rounding
    tensors : mapping of str to float32 array
    seen : dict of str to RateModel
        By matrix, of the last round.
    bits : dict of str to float
        What the codes of each matrix's last round cost by their own code lengths; steps are not included.
    device : torch device, optional
        Where matrices are rounded, several of one shape at a time; None: by compiled code, a matrix per thread.
    """

    rounding: Rounding
    tensors: Mapping[str, np.ndarray]
    seen: dict[str, RateModel] = field(default_factory=dict)
    device: torch.device | None = None
    bits: dict[str, float] = field(default_factory=dict)
    _store: CodeStore = field(default_factory=CodeStore)

    def round(self, matrices: Sequence[Matrix], scale: float) -> dict[str, ScaledMatrix]:
        """Quantized matrices by name, as they are stored; those of an earlier round can no longer be read."""
        rounded = {}
        progress = Progress(LOGGER, len(matrices), "matrices", "rounded")
        for name, matrix in self.round_each(matrices, scale):
            rounded[name] = matrix
            progress.add(1, f"scale {scale:.4g}")
        return {matrix.name: rounded[matrix.name] for matrix in matrices}

    def round_each(self, matrices: Sequence[Matrix], scale: float) -> Iterator[tuple[str, ScaledMatrix]]:
        """As `round`, by name as soon as each is done, without a word on how far it is."""
        if self.device is not None:
            for group in self._of_one_shape(matrices):
                found = self.rounding.round_together(group, scale, self.device)
                for item, result in zip(group, found, strict=True):
                    yield item.matrix.name, self._learn(item.matrix, result)
            return

        def work(matrix: Matrix) -> tuple[str, ScaledMatrix]:
            result = self.rounding.round(matrix, self.upright(matrix), scale, self.seen.get(matrix.name))
            return matrix.name, self._learn(matrix, result)

        yield from in_threads(work, matrices)

    def _learn(self, matrix: Matrix, result: ScaledMatrix) -> ScaledMatrix:
        """Learn code lengths from a rounded matrix, and keep it as it is stored."""
        rates = RateModel.fit(result.codes, grids=2 if result.states else 1)
        self.seen[matrix.name], self.bits[matrix.name] = rates, rates.bits(result.codes)
        return self._store.keep(matrix.name, result.transpose() if matrix.transposed else result)

    def _of_one_shape(self, matrices: Sequence[Matrix]) -> Iterator[list[Unrounded]]:
        """All matrices in groups of one shape, each small enough for a device."""
        groups: dict[Shape, list[Unrounded]] = {}
        for matrix in matrices:
            weight = self.upright(matrix)
            group = groups.setdefault(weight.shape, [])
            group.append(Unrounded(matrix, weight, self.seen.get(matrix.name)))
            if (len(group) + 1) * (weight.size + weight.shape[1] ** 2) > _ROUNDED_TOGETHER:
                yield groups.pop(weight.shape)
        yield from groups.values()

    def upright(self, matrix: Matrix) -> np.ndarray:
        """A matrix's values as [outputs, inputs]."""
        tensor = finite(matrix.name, self.tensors[matrix.name])
        return np.ascontiguousarray(tensor.T) if matrix.transposed else tensor

    def estimated_bits(self, matrices: Sequence[Matrix], scale: float) -> float:
        """What the codes of a round cost by their own code lengths; steps are not included."""
        self.round(matrices, scale)
        return sum(self.bits[matrix.name] for matrix in matrices)


def encoded_bits(matrices: Mapping[str, ScaledMatrix], coder: Coder = "adaptive") -> int:
    """Bits that codes and steps take when they are coded alone; the codes of many matrices in groups, side by side.

    Groups are coded in a stream each where the coder is `parallel`, whose own streams differ by a few bytes.
    """
    alone: Coder = "adaptive" if coder == "parallel" else coder
    groups: list[list[ScaledMatrix]] = [[]]
    size = 0
    for matrix in matrices.values():
        if size >= _CODED_TOGETHER:
            groups.append([])
            size = 0
        groups[-1].append(matrix)
        size += len(matrix.row_exponents) * len(matrix.column_exponents)

    def work(group: list[ScaledMatrix]) -> int:
        codes = CodeSequence([matrix.coded_shape for matrix in group], lambda index: group[index].coded)
        return len(encode_codes(codes, alone, [matrix.machine for matrix in group]))

    return 8 * (sum(in_threads(work, groups)) + len(encode_scales(list(matrices.values()), [])))


def find_scale(bits: Callable[[float], float], wanted: float, guess: float, slack: float | None = None) -> float:
    """The scale at which a decreasing function is `wanted`, to within `slack` (by default 1 % and 50 bytes).

    The secant method on the logarithm of the scale, kept inside the known bracket. The function may drift as code
    lengths are learned, so a side of the bracket that two steps in a row did not move is discarded.

    Raises
    ------
    MessageError
        If it is not met in twelve evaluations: the target lies outside what the model allows.
    """
    slack = TOLERANCE * wanted + SLACK_BITS if slack is None else slack
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


class Sample:
    """A sample of a model's matrices, of all kinds alike, whose size at a scale stands for that of all of them.

    Parameters
    ----------
    rounder : Rounder
        Of the whole model; it learns nothing from the sample.
    matrices : sequence of Matrix
        All that share the scale.
    shapes : mapping of str to shape
        Of all tensors.

    Attributes
    ----------
    share
        The sample's share of the weights; 1 for a small model, which is its own sample.
    """

    def __init__(self, rounder: Rounder, matrices: Sequence[Matrix], shapes: Mapping[str, Shape]) -> None:
        self._trial = Rounder(rounder.rounding, rounder.tensors, device=rounder.device)
        sizes = {matrix.name: math.prod(shapes[matrix.name]) for matrix in matrices}
        total = sum(sizes.values())
        self._matrices = _every(matrices, max(1, round(total / _SAMPLED_WEIGHTS)))
        weights = sum(sizes[matrix.name] for matrix in self._matrices)
        self.share = weights / max(total, 1)

    def first_guess(self) -> float:
        """About the scale at which codes have a root mean square of one."""

        def work(matrix: Matrix) -> float:
            return self._trial.rounding.unit(matrix, self._trial.upright(matrix))

        units = list(in_threads(work, self._matrices))
        return float(np.exp(np.mean(np.log(np.maximum(units, 1e-30)))))

    def find(self, wanted: float, guess: float, slack_bits: float | None = None) -> float:
        """The scale at which all matrices take about `wanted` bits (to 2 %), by the estimate for the sample alone."""
        own = wanted * self.share

        def bits(scale: float) -> float:
            return self._trial.estimated_bits(self._matrices, scale)

        return find_scale(bits, own, guess, _ROUGH_TOLERANCE * own if slack_bits is None else slack_bits * self.share)

    def likeness(self, bits: Mapping[str, float], matrices: Sequence[Matrix]) -> float:
        """How many times its share of the weights the sample takes of the bits of all `matrices`.

        The sample has the first block, whose layers tend to matter more and to get more bits than any others.
        """
        own, all_bits = (sum(bits[matrix.name] for matrix in some) for some in (self._matrices, matrices))
        return own / max(self.share * all_bits, 1.0)

    def coder_ratio(self, scale: float, coder: Coder) -> float:
        """How many times its estimate the sample takes when it is really coded."""
        rounded = self._trial.round(self._matrices, scale)
        return encoded_bits(rounded, coder) / max(sum(self._trial.bits[name] for name in rounded), 1.0)


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
