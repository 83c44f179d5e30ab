"""Block averages of many quantities at once, for samples (docs/bounds.md, "Sampling")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenbounds.bounds.centred import error_centres
from tokenbounds.bounds.sampling import sum_logs
from tokenbounds.bounds.smoothing import TokenAlphas, Weighting, smooth
from tokenbounds.certificates.averages.passes import CellAverages, Sample, ScoreStream, stream_columns
from tokenbounds.errors import CertificateError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Columns = Mapping[str, npt.NDArray[Any]]

_ROWS = 1 << 14  # rows at once: temporaries of a part stay in the processor's cache
_BLOCK_AVERAGES = 1 << 24  # kept at once


@dataclass(frozen=True, eq=False)
class Cell:
    """A loss with a centre, and bets on it.

    Attributes
    ----------
    weighting
        Smoothing weight of losses in bits; None for errors.
    kappa
        The centre's factor of the entropy.
    lambdas
        [k], 1 / unit of the loss.
    error_k
        Guesses beyond which a token is an error; None for losses in bits.
    """

    weighting: Weighting | None
    kappa: float
    lambdas: Floats
    error_k: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of scores that it needs."""
        losses = ("rank",) if self.weighting is None else ("nll_bits",)
        own = ("alpha",) if isinstance(self.weighting, TokenAlphas) else ()
        return (*losses, *own, *(("entropy_bits",) if self.kappa else ()))

    @property
    def averages(self) -> int:
        """How many quantities it averages: loss, centre, a logarithm for each lambda, perhaps the squared range."""
        return 2 + len(self.lambdas) + isinstance(self.weighting, TokenAlphas)

    def losses(self, columns: Columns, vocabulary_size: int) -> Floats:
        """Losses of tokens [n]: smoothed, bits, or 1 for an error and 0 otherwise."""
        if self.weighting is None:
            return np.asarray(columns["rank"] > self.error_k, dtype=np.float64)
        alpha = columns["alpha"] if isinstance(self.weighting, TokenAlphas) else self.weighting
        return smooth(columns["nll_bits"], alpha, vocabulary_size)

    def centres(self, columns: Columns) -> Floats | float:
        """Centres of tokens [n], unit of the loss."""
        if not self.kappa:
            return 0.0
        entropies = np.asarray(columns["entropy_bits"], dtype=np.float64)
        if self.error_k is None:
            return self.kappa * entropies
        return error_centres(entropies, self.error_k, (self.kappa,))[0]


class SampledCells:
    """Block averages of the loss, of its centre, and of ln(1 - lambda x (loss - centre)), for several cells.

    Parameters
    ----------
    blocks
        Identifiers of the sampled blocks, increasing.
    vocabulary_size
        V.
    cells
        What to average.
    """

    def __init__(self, blocks: Ints, vocabulary_size: int, cells: Sequence[Cell]) -> None:
        self._blocks = blocks
        self._vocabulary_size = vocabulary_size
        self._cells = list(cells)
        self._counts = np.zeros(len(blocks))  # rows of each block
        self._sums = [np.zeros((cell.averages, len(blocks))) for cell in self._cells]  # over each block

    def update(self, block: Ints, **columns: npt.NDArray[Any]) -> None:
        """Add rows [n]: block, and the columns that the cells need. Neighbours are mostly in one block.

        Raises
        ------
        CertificateError
            If a row belongs to no sampled block.
        """
        for first in range(0, len(block), _ROWS):
            part = slice(first, first + _ROWS)
            self._update(block[part], {name: values[part] for name, values in columns.items()})

    def _update(self, block: Ints, columns: Columns) -> None:
        # Runs of rows of one block are summed at once; a block may have several runs, because batches cut them.
        starts = np.flatnonzero(np.diff(block, prepend=block[0] - 1))  # [runs]
        lengths = np.diff(starts, append=len(block))
        place = np.minimum(np.searchsorted(self._blocks, block[starts]), len(self._blocks) - 1)
        if not np.array_equal(self._blocks[place], block[starts]):
            raise CertificateError("a scored row belongs to no block of the plan.")
        np.add.at(self._counts, place, lengths)
        for cell, sums in zip(self._cells, self._sums, strict=True):
            losses, centres = cell.losses(columns, self._vocabulary_size), cell.centres(columns)  # [n]
            known = np.add.reduceat(centres, starts) if cell.kappa else np.zeros(len(starts))
            found = [np.add.reduceat(losses, starts), known, sum_logs(losses - centres, cell.lambdas, starts)]
            if isinstance(cell.weighting, TokenAlphas):
                ranges = cell.weighting.ranges(self._vocabulary_size)  # by weight, bits
                found.append(np.add.reduceat(ranges[cell.weighting.index(columns["alpha"])] ** 2, starts))
            np.add.at(sums.T, place, np.vstack(found).T)  # [.., runs]

    def means(self) -> list[Floats]:
        """For each cell the block averages: of the loss, of the centre, of the logarithms [2 + k, blocks].

        Where tokens differ in their weight, a last row has the averages of the squared ranges of their losses.

        Raises
        ------
        CertificateError
            If a block has no row.
        """
        if np.any(self._counts == 0):
            raise CertificateError("a block of the plan has no scored row; score it again.")
        return [sums / self._counts for sums in self._sums]


def average_sampled(
    scores: ScoreStream, sample: Sample, vocabulary_size: int, cells: Sequence[Cell]
) -> Iterator[CellAverages]:
    """Average cells over a sample's blocks, with a value per draw after the pilot.

    Parameters
    ----------
    scores
        Of the sample's blocks, and perhaps of others.
    sample
        The draws.
    vocabulary_size
        V.
    cells
        What to average.
    """
    pending = list(cells)
    while pending:
        # As many cells per pass as fit: each keeps one average per block of each of its quantities.
        kept = np.cumsum([cell.averages for cell in pending])
        fitting = max(1, int(np.searchsorted(kept * len(sample.blocks), _BLOCK_AVERAGES, side="right")))
        yield from _average_draws(scores, sample, vocabulary_size, pending[:fitting])
        pending = pending[fitting:]


def _average_draws(
    scores: ScoreStream, sample: Sample, vocabulary_size: int, cells: Sequence[Cell]
) -> Iterator[CellAverages]:
    """One value per draw for every cell, from one pass."""
    sampled = SampledCells(sample.blocks, vocabulary_size, cells)
    columns = tuple(dict.fromkeys(("block", *(name for cell in cells for name in cell.columns))))
    for batch in stream_columns(scores, columns):
        chosen = sample.chosen(batch[0])  # [n]
        if chosen.any():
            sampled.update(**{name: values[chosen] for name, values in zip(columns, batch, strict=True)})
    for cell, means in zip(cells, sampled.means(), strict=True):
        loss, centre, *logs = (sample.average_chosen(each) for each in means)
        square = logs.pop() if isinstance(cell.weighting, TokenAlphas) else None
        yield CellAverages(cell.weighting, loss, cell.lambdas, tuple(logs), square, cell.kappa, centre, cell.error_k)
