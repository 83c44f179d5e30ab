"""Averages over sampled blocks of many weights and lambdas at once, against each on its own."""

import numpy as np
import pytest
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.certificates.averages.sampled import Cell, SampledCells
from tokenbounds.errors import CertificateError


def test_block_averages_of_cells_whatever_the_batches():
    rng = np.random.default_rng(4)
    block = np.repeat([3, 5, 9], [700, 1, 90])
    nll = rng.exponential(4.0, block.size).astype(np.float32)
    entropy = np.rint(8 * nll.astype(float)) / 16
    columns = {"nll_bits": nll, "entropy_bits": entropy, "rank": rng.integers(1, 9, block.size)}
    wrong, spread = columns["rank"] > 2, np.maximum(0, entropy - 1)
    cells = {
        Cell(0.01, 0.0, np.array([0.01, 0.05])): (smooth(nll, 0.01, 100), 0 * nll),
        Cell(0.01, 0.5, np.array([0.05])): (smooth(nll, 0.01, 100), entropy / 2),
        Cell(0.2, 0.0, np.empty(0)): (smooth(nll, 0.2, 100), 0 * nll),
        Cell(None, 0.5, np.array([0.1, 0.9]), error_k=2): (wrong, 1 - 2 ** (-spread / 2)),
        Cell(None, 0.0, np.empty(0), error_k=2): (wrong, 0 * nll),
    }
    for size in (1000, 64, 1):
        sampled = SampledCells(np.array([3, 5, 9]), 100, list(cells))
        for first in range(0, block.size, size):
            part = slice(first, first + size)
            sampled.update(block[part], **{name: values[part] for name, values in columns.items()})
        for (cell, (losses, centres)), means in zip(cells.items(), sampled.means(), strict=True):
            logs = [np.log1p(-x * (losses - centres)) for x in cell.lambdas]
            for row, values in zip(means, [losses, centres, *logs], strict=True):
                assert row == pytest.approx([values[block == each].mean() for each in (3, 5, 9)], rel=1e-12)
    with pytest.raises(CertificateError, match="no block"):
        sampled.update(np.array([4]), nll_bits=nll[:1])
    with pytest.raises(CertificateError, match="no scored row"):
        SampledCells(np.array([3]), 100, list(cells)).means()
