import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.bounds.betting import lambda_fractions
from tokenbounds.bounds.sampling import (
    BlockSums,
    draw_order,
    draws_for_width,
    lower_mean,
    pilot_draws,
    sum_logs,
    upper_mean,
)
from tokenbounds.errors import CertificateError


def hoeffding(values, delta):
    """Hoeffding 1963, for values in [0, 1]."""
    return np.mean(values) + math.sqrt(math.log(1 / delta) / (2 * len(values)))


def bernstein(values, delta):
    """Maurer & Pontil 2009, theorem 4, for values in [0, 1]."""
    n, log = len(values), math.log(2 / delta)
    return np.mean(values) + math.sqrt(2 * np.var(values, ddof=1) * log / n) + 7 * log / (3 * (n - 1))


def test_betting_by_hand():
    # all values 0: the wealth of bet b is (1 - b mu)^-n; the bound is the mu at which the average wealth is 1 / delta
    bound = upper_mean([0.0] * 40, 0.0, 1.0, 0.05)
    wealth = np.mean((1 - lambda_fractions(64) * bound) ** -40.0)
    assert wealth == pytest.approx(20.0, rel=1e-6)


def test_lower_mirrors_upper():
    values = np.random.default_rng(0).beta(2, 5, 60)
    assert lower_mean(values, 0, 1, 0.1) == pytest.approx(1 - upper_mean(1 - values, 0, 1, 0.1))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-2.0, 3.0), min_size=2, max_size=50), st.floats(1e-6, 0.4))
def test_bounds_lie_between_the_mean_and_the_ceiling_and_follow_delta(values, delta):
    bound = upper_mean(values, -2.0, 3.0, delta)
    assert np.mean(values) - 1e-9 <= bound <= 3.0 + 1e-12
    assert upper_mean(values, -2.0, 3.0, delta / 10) >= bound - 1e-9
    assert upper_mean(values[::-1], -2.0, 3.0, delta) == pytest.approx(bound, abs=1e-9)


def test_betting_beats_older_bounds_on_calm_blocks():
    values = np.clip(np.random.default_rng(1).normal(0.2, 0.03, 400), 0, 1)
    assert upper_mean(values, 0, 1, 1e-4) < min(hoeffding(values, 1e-4), bernstein(values, 1e-4))


def test_draw_order_is_a_seeded_permutation_of_the_draws():
    order = draw_order([2, 0, 3, 1], 7)
    assert sorted(order) == [0, 0, 2, 2, 2, 3]
    assert np.array_equal(order, draw_order([2, 0, 3, 1], 7))
    assert any(not np.array_equal(order, draw_order([2, 0, 3, 1], seed)) for seed in range(8, 12))


def test_block_sums_in_any_order_of_rows():
    sums = BlockSums([7, 3, 900])
    sums.add([900, 3], [1.0, 2.0])
    sums.add([3, 7, 900, 900], [4.0, 5.0, 2.0, 6.0])
    assert sums.means() == pytest.approx([5.0, 3.0, 3.0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=90), st.sets(st.integers(1, 89), max_size=12))
def test_sums_of_logarithms_over_runs(values, cuts):
    starts = np.array([0, *sorted(cut for cut in cuts if cut < len(values))])
    bets = np.array([1e-4, 0.3, 0.995])
    wanted = [[np.log1p(-bet * part).sum() for part in np.split(values, starts[1:])] for bet in bets]
    assert sum_logs(np.array(values), bets, starts) == pytest.approx(np.array(wanted), rel=1e-10, abs=1e-13)


def test_the_estimate_of_the_sample_size_is_about_right():
    rng = np.random.default_rng(2)
    n = draws_for_width(0.3, 20.0, 0.05, 0.01)
    values = np.clip(rng.normal(4.0, 0.3, n), 0, 20)
    width = upper_mean(values, 0.0, 20.0, 0.01) - values.mean()
    assert 0.025 < width < 0.06


@pytest.mark.parametrize(
    "call",
    [
        lambda: upper_mean([], 0, 1, 0.1),
        lambda: upper_mean([0.5], 1, 1, 0.1),
        lambda: upper_mean([1.5], 0, 1, 0.1),
        lambda: upper_mean([np.nan], 0, 1, 0.1),
        lambda: upper_mean([0.5], 0, 1, 0.0),
        lambda: draw_order([-1], 0),
        lambda: BlockSums([1, 1]),
        lambda: BlockSums([1]).add([2], [0.0]),
        lambda: BlockSums([1, 2]).means(),
        lambda: draws_for_width(1.0, 1.0, 0.0, 0.1),
    ],
)
def test_impossible_samples_are_refused(call):
    with pytest.raises(CertificateError):
        call()


def choose_and_bound(values, pilot, after, delta=0.1):
    """The quantity [cells] that looks smallest on the first draws, and its upper bound from those after `after`."""
    cell = int(np.argmin(values[:, :pilot].mean(axis=1)))
    return upper_mean(values[cell, after:], 0.0, 1.0, delta)


def test_what_a_pilot_chooses_is_bounded_and_what_all_draws_choose_is_not():
    """Two thousand quantities of one mean: chosen with all draws in view, chance made the smallest small."""
    rng, replications, draws = np.random.default_rng(8), 100, 60
    pilot = pilot_draws(draws)
    assert (pilot, pilot_draws(2), pilot_draws(1), pilot_draws(9)) == (6, 1, 0, 1)
    missed = {"pilot": 0, "all draws": 0}
    for _ in range(replications):
        values = (rng.random((2000, draws)) < 0.3).astype(float)
        missed["pilot"] += choose_and_bound(values, pilot, pilot) < 0.3
        missed["all draws"] += choose_and_bound(values, draws, 0) < 0.3
    allowed = 0.1 * replications + 3 * math.sqrt(0.09 * replications)
    assert missed["pilot"] <= allowed < missed["all draws"]
