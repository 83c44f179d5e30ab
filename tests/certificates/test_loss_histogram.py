"""Histograms of losses: bins round up, counts and sums do not depend on order, impossible values are refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.bounds.azuma import bound_azuma
from tokenbounds.bounds.betting import bound_betting
from tokenbounds.bounds.smoothing import loss_ceiling, loss_range, smooth
from tokenbounds.certificates.averages.histogram import INFINITE_BIN, FixedPointSum, LossHistogram
from tokenbounds.errors import CertificateError, ScoreError


def test_bins_round_up_and_the_last_one_is_infinite():
    step = 1 / 4096
    nll = np.array([0.0, -0.0, step, step * 1.0001, 64.0, 64.001, 1e30, np.inf], dtype=np.float32)
    histogram = LossHistogram(9)
    histogram.update(nll)
    assert np.flatnonzero(histogram.counts).tolist() == [0, 1, 2, 262144, 262145]
    assert histogram.counts[[0, INFINITE_BIN]].tolist() == [2, 3]


def test_an_infinite_loss_costs_the_ceiling():
    histogram = LossHistogram(32)
    histogram.update(np.array([np.inf, 65.0, 0.0], dtype=np.float32))
    values, weights = histogram.losses(0.5)
    assert values == pytest.approx([-math.log2(0.5 + 1 / 64), 6.0])
    assert list(weights) == [1, 2]


def test_errors_are_ranks_above_k():
    histogram = LossHistogram(100, (1, 10))
    histogram.update(np.ones(4, np.float32), np.array([1, 2, 10, 11], np.int32))
    assert histogram.error_rate(1) == 0.75
    assert histogram.error_rate(10) == 0.25


def test_weights_count_as_draws():
    weighted, repeated = LossHistogram(9, (1,)), LossHistogram(9, (1,))
    weighted.update(np.array([1.0, 3.0], np.float32), np.array([1, 2]), [2.0, 1.0])
    repeated.update(np.array([1.0, 1.0, 3.0], np.float32), np.array([1, 1, 2]))
    assert np.array_equal(weighted.counts, repeated.counts)
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
    values = smooth(rng.exponential(4, 30_000), 0.01, 300)
    whole, parts, left, right = (FixedPointSum() for _ in range(4))
    whole.add(values)
    for part in np.array_split(rng.permutation(values), 9):
        parts.add(part)
    left.add(values[:5])
    right.add(values[5:])
    left.merge(right)
    assert whole.mean == parts.mean == left.mean == pytest.approx(values.mean(), abs=2.0**-40)
    plain = {float(np.cumsum(rng.permutation(values))[-1]) for _ in range(9)}
    assert len(plain) > 1  # sums of floats would show the order


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
        _ = FixedPointSum().mean
    with pytest.raises(CertificateError):
        LossHistogram(1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 80.0, width=32), min_size=1, max_size=80), st.integers(1, 40))
def test_histogram_bounds_lie_just_above_exact_ones_whatever_the_batches(nll, batch):
    whole, parts = LossHistogram(500), LossHistogram(500)
    whole.update(np.array(nll, dtype=np.float32))
    for start in range(0, len(nll), batch):
        parts.update(np.array(nll[start : start + batch], dtype=np.float32))
    assert np.array_equal(whole.counts, parts.counts)
    for alpha in (0.001, 0.2):
        values, weights = parts.losses(alpha)
        ceiling = loss_ceiling(alpha, 500)
        exact = bound_betting(smooth(np.array(nll, dtype=np.float32), alpha, 500), ceiling, 4.0)
        coarse = bound_betting(values, ceiling, 4.0, weights=weights)
        assert exact.empirical <= coarse.empirical + 1e-12 <= exact.empirical + 2**-12 + 1e-9
        assert exact.value <= coarse.value + 1e-12
        assert bound_azuma(coarse.empirical, loss_range(alpha, 500), 4.0, len(nll)).value >= exact.empirical
