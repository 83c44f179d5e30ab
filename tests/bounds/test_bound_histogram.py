import math

import numpy as np
import pytest
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.certificates.averages.histogram import LossHistogram, SmoothedSums, bin_losses
from tokenbounds.errors import CertificateError, ScoreError


def test_bins_round_up_and_the_last_one_is_infinite():
    step = 1 / 4096
    nll = np.array([0.0, -0.0, step, step * 1.0001, 64.0, 64.001, 1e30, np.inf], dtype=np.float32)
    assert list(bin_losses(nll)) == [0, 0, 1, 2, 262144, 262145, 262145, 262145]


def test_an_infinite_loss_costs_the_ceiling():
    histogram = LossHistogram(32)
    histogram.update(np.array([np.inf, 65.0, 0.0], dtype=np.float32))
    values, weights = histogram.losses(0.5)
    assert values == pytest.approx([-math.log2(0.5 + 1 / 64), 6.0])
    assert list(weights) == [1, 2]
    assert histogram.mean_loss(0.5) == pytest.approx((12.0 + values[0]) / 3)


def test_errors_are_ranks_above_k():
    histogram = LossHistogram(100, (1, 10))
    histogram.update(np.ones(4, np.float32), np.array([1, 2, 10, 11], np.int32))
    assert histogram.error_rate(1) == 0.75
    assert histogram.error_rate(10) == 0.25


def test_weights_count_as_draws():
    weighted, repeated = LossHistogram(9, (1,)), LossHistogram(9, (1,))
    weighted.update(np.array([1.0, 3.0], np.float32), np.array([1, 2]), [2.0, 1.0])
    repeated.update(np.array([1.0, 1.0, 3.0], np.float32), np.array([1, 1, 2]))
    assert weighted.mean_loss(0.1) == pytest.approx(repeated.mean_loss(0.1))
    assert weighted.error_rate(1) == pytest.approx(1 / 3)
    assert weighted.weight == 3 and weighted.tokens == 2


def test_merging_parts_gives_the_whole():
    rng = np.random.default_rng(0)
    nll, rank = rng.exponential(4, 100_001).astype(np.float32), rng.integers(1, 50, 100_001)
    whole, left, right = (LossHistogram(50, (1, 5)) for _ in range(3))
    whole.update(nll, rank)
    left.update(nll[:777], rank[:777])
    right.update(nll[777:], rank[777:])
    right.merge(left)
    assert np.array_equal(right.counts, whole.counts)
    assert right.error_rate(5) == whole.error_rate(5)
    with pytest.raises(CertificateError):
        right.merge(LossHistogram(50))


def test_exact_sums_do_not_depend_on_batches_or_order_at_all():
    rng = np.random.default_rng(1)
    nll = rng.exponential(4, 70_000).astype(np.float32)
    cells = [(0.01, None), (0.01, 0.03), (0.1, 0.05)]
    sums = [SmoothedSums(300, cells) for _ in range(3)]
    sums[0].update(nll)
    for part in np.array_split(rng.permutation(nll), 9):
        sums[1].update(part)
    sums[2].update(nll[:5])
    rest = SmoothedSums(300, cells)
    rest.update(nll[5:])
    sums[2].merge(rest)
    assert len({each.mean_loss(0.01) for each in sums}) == 1
    assert len({each.mean_log(0.1, 0.05) for each in sums}) == 1
    assert sums[0].mean_loss(0.1) == pytest.approx(smooth(nll, 0.1, 300).mean(), abs=1e-12)
    assert sums[0].mean_log(0.01, 0.03) == pytest.approx(np.log1p(-0.03 * smooth(nll, 0.01, 300)).mean(), abs=1e-12)


@pytest.mark.parametrize("bad", [np.nan, -1.0, -np.inf])
def test_impossible_losses_are_refused(bad):
    with pytest.raises(ScoreError):
        LossHistogram(10).update(np.array([1.0, bad], np.float32))


@pytest.mark.parametrize("rank", [None, [0], [11], [1, 2]])
def test_impossible_ranks_are_refused(rank):
    with pytest.raises(ScoreError):
        LossHistogram(10, (1,)).update(np.array([1.0], np.float32), rank)


def test_nothing_has_no_mean():
    with pytest.raises(CertificateError):
        SmoothedSums(10, [(0.1, None)]).mean_loss(0.1)
    with pytest.raises(CertificateError):
        LossHistogram(1)
