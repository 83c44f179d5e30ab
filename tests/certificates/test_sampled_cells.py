"""Averages over sampled blocks of many weights and lambdas at once, against each on its own."""

import numpy as np
import pytest
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.certificates.averages.sampled import SampledCells
from tokenbounds.errors import CertificateError


def test_block_averages_of_cells_whatever_the_batches():
    rng = np.random.default_rng(4)
    block = np.repeat([3, 5, 9], [700, 1, 90])
    nll = rng.exponential(4.0, block.size).astype(np.float32)
    entropy = np.rint(8 * nll) / 16
    cells = [(0.01, 0.0, np.array([0.01, 0.05])), (0.01, 0.5, np.array([0.05])), (0.2, 0.0, np.empty(0))]
    for size in (1000, 64, 1):
        sampled = SampledCells(np.array([3, 5, 9]), 100, cells)
        for first in range(0, block.size, size):
            sampled.update(*(each[first : first + size] for each in (block, nll, entropy)))
        for (alpha, kappa, lambdas), means in zip(cells, sampled.means(), strict=True):
            losses = smooth(nll, alpha, 100)
            for row, values in zip(
                means, [losses, *(np.log1p(-x * (losses - kappa * entropy)) for x in lambdas)], strict=True
            ):
                assert row == pytest.approx([values[block == each].mean() for each in (3, 5, 9)], rel=1e-12)
    with pytest.raises(CertificateError, match="no block"):
        sampled.update(np.array([4]), nll[:1])
    with pytest.raises(CertificateError, match="no scored row"):
        SampledCells(np.array([3]), 100, cells).means()
