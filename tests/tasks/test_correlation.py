"""Rank correlations with bootstrap intervals."""

import math

import numpy as np
import pytest
from scipy import stats
from tokenbounds.tasks.correlation import correlate


def test_perfect_and_reversed_orders():
    assert correlate([1, 2, 3, 4], [10, 20, 30, 99], resamples=50, seed=0).value == 1
    assert correlate([1, 2, 3, 4], [9, 7, 5, 1], resamples=50, seed=0).value == -1


def test_ties_share_their_average_rank():
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: centred (-.5, -.5, 1) and (-1, 0, 1), hence 1.5 / sqrt(1.5 * 2).
    assert correlate([1, 1, 2], [1, 2, 3], resamples=50, seed=0).value == pytest.approx(1.5 / math.sqrt(3))


def test_the_coefficient_is_scipys():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=90), np.round(generator.normal(size=90), 1)
    assert correlate(first, second, resamples=10, seed=0).value == pytest.approx(stats.spearmanr(first, second)[0])


def test_the_interval_covers_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    truth = 6 / math.pi * math.asin(0.5 / 2)  # Spearman's coefficient of a Gaussian pair with correlation 0.5
    covered = 0
    for seed in range(100):
        first = generator.normal(size=80)
        second = 0.5 * first + math.sqrt(0.75) * generator.normal(size=80)
        found = correlate(first, second, resamples=300, seed=seed)
        covered += found.low <= truth <= found.high
    assert 87 <= covered <= 99


def test_the_same_seed_gives_the_same_interval_in_any_block(monkeypatch):
    generator = np.random.default_rng(2)
    first, second = generator.normal(size=(2, 40))
    whole = correlate(first, second, resamples=100, seed=3)
    monkeypatch.setattr("tokenbounds.tasks.correlation._BLOCK_CELLS", 160)
    again = correlate(first, second, resamples=100, seed=3)
    assert (whole.low, whole.high) == (again.low, again.high)
    assert correlate(first, second, resamples=100, seed=4) != whole


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1, 2]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3], [5, 5, 5])])
def test_what_has_no_correlation_has_none(first, second):
    found = correlate(first, second, resamples=20, seed=0)
    assert all(map(math.isnan, (found.value, found.low, found.high)))
