"""Block averages of many quantities at once, for samples (docs/bounds.md, "Sampling")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.sampling import sum_logs
from tokenbounds.bounds.smoothing import TokenAlphas, Weighting, smooth
from tokenbounds.errors import CertificateError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_ROWS = 1 << 14  # rows at once: temporaries of a part stay in the processor's cache


Cell = tuple[Weighting, float, Floats]
"""A smoothing weight, the centre's factor of the entropy, and lambdas [k], 1 / bit."""


class SampledCells:
    """Block averages of the smoothed loss, and of ln(1 - lambda x (smoothed loss - centre)), for several cells.

    Parameters
    ----------
    blocks
        Identifiers of the sampled blocks, increasing.
    vocabulary_size
        V.
    cells
        What to average: smoothing weights, one for all tokens or one per token, with centres and lambdas.
    """

    def __init__(self, blocks: Ints, vocabulary_size: int, cells: Sequence[Cell]) -> None:
        self._blocks = blocks
        self._vocabulary_size = vocabulary_size
        self._cells = list(cells)
        self._counts = np.zeros(len(blocks))  # rows of each block
        # For each weight, sums over each block: of the loss, of ln(1 - lambda x loss) for every lambda, and of the
        # squared range of the loss if tokens differ in their weight: [1 + k (+ 1), blocks].
        self._sums = [
            np.zeros((1 + len(lambdas) + isinstance(weighting, TokenAlphas), len(blocks)))
            for weighting, _, lambdas in self._cells
        ]
        self._entropies = np.zeros(len(blocks))  # sums over each block

    def update(
        self,
        block: Ints,
        nll_bits: npt.NDArray[np.float32],
        entropy_bits: npt.ArrayLike | None = None,
        alpha: npt.ArrayLike | None = None,
    ) -> None:
        """Add rows [n]: block, raw loss and entropy in bits, smoothing weight if tokens differ.

        Neighbours are mostly in one block. Entropies are needed if a cell has a centre.

        Raises
        ------
        CertificateError
            If a row belongs to no sampled block.
        """
        entropies = np.zeros(len(block)) if entropy_bits is None else np.asarray(entropy_bits, dtype=np.float64)
        for first in range(0, len(block), _ROWS):
            part = slice(first, first + _ROWS)
            own = None if alpha is None else np.asarray(alpha)[part]
            self._update(block[part], nll_bits[part], entropies[part], own)

    def _update(
        self, block: Ints, nll_bits: npt.NDArray[np.float32], entropies: Floats, own: npt.NDArray[np.float32] | None
    ) -> None:
        # Runs of rows of one block are summed at once; a block may have several runs, because batches cut them.
        starts = np.flatnonzero(np.diff(block, prepend=block[0] - 1))  # [runs]
        place = np.minimum(np.searchsorted(self._blocks, block[starts]), len(self._blocks) - 1)
        if not np.array_equal(self._blocks[place], block[starts]):
            raise CertificateError("a scored row belongs to no block of the plan.")
        np.add.at(self._counts, place, np.diff(starts, append=len(block)))
        np.add.at(self._entropies, place, np.add.reduceat(entropies, starts))
        for (weighting, kappa, lambdas), sums in zip(self._cells, self._sums, strict=True):
            squares: list[Floats] = []
            alphas: npt.ArrayLike
            if isinstance(weighting, TokenAlphas):
                assert own is not None
                alphas = own  # [n]
                ranges = weighting.ranges(self._vocabulary_size)[weighting.index(own)]  # [n], bits
                squares = [np.add.reduceat(ranges**2, starts)]
            else:
                alphas = weighting
            losses = smooth(nll_bits, alphas, self._vocabulary_size)  # [n], bits
            logs = sum_logs(losses - kappa * entropies, lambdas, starts)  # [k, runs]
            found = [np.add.reduceat(losses, starts), logs, *squares]  # [.., runs] each
            np.add.at(sums.T, place, np.vstack(found).T)

    def mean_entropies(self) -> Floats:
        """Average entropy of each block [blocks], bits."""
        means: Floats = self._entropies / self._counts
        return means

    def means(self) -> list[Floats]:
        """For each cell the block averages: of the loss, then of the logarithms [1 + k, blocks].

        Where tokens differ in their weight, a last row has the averages of the squared ranges of their losses.

        Raises
        ------
        CertificateError
            If a block has no row.
        """
        if np.any(self._counts == 0):
            raise CertificateError("a block of the plan has no scored row; score it again.")
        return [sums / self._counts for sums in self._sums]
