import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.bounds.betting import lambda_fractions
from tokenbounds.bounds.sampling import BlockSums, draw_order, draws_for_width, lower_mean, sum_logs, upper_mean
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.certificates.averages.sampled import DrawnCells
from tokenbounds.errors import CertificateError

METHODS = ("betting", "predictable", "bernstein", "hoeffding")


def test_hoeffding_by_hand():
    # range 4, n = 50, delta = e^-4: 4 sqrt(4 / 100) = 0.8
    assert upper_mean([1.0] * 50, 0.0, 4.0, math.exp(-4), "hoeffding") == pytest.approx(1.8)


def test_bernstein_by_hand():
    # values 0 and 1, n = 2: variance 1/2; ln(2 / delta) = 1/100
    delta = 2 * math.exp(-0.01)
    with pytest.raises(CertificateError, match="failure probability"):
        upper_mean([0.0, 1.0], 0.0, 1.0, delta, "bernstein")
    values = [0.0, 1.0] * 500
    log = math.log(2 / 0.1)
    by_hand = 0.5 + math.sqrt(2 * (250 / 999) * log / 1000) + 7 * log / (3 * 999)
    assert upper_mean(values, 0.0, 1.0, 0.1, "bernstein") == pytest.approx(by_hand)


def test_betting_by_hand():
    # all values 0: the wealth of bet b is (1 - b mu)^-n; the bound is the mu at which the average wealth is 1 / delta
    bound = upper_mean([0.0] * 40, 0.0, 1.0, 0.05)
    wealth = np.mean((1 - lambda_fractions(64) * bound) ** -40.0)
    assert wealth == pytest.approx(20.0, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_lower_mirrors_upper(method):
    values = np.random.default_rng(0).beta(2, 5, 60)
    assert lower_mean(values, 0, 1, 0.1, method) == pytest.approx(1 - upper_mean(1 - values, 0, 1, 0.1, method))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-2.0, 3.0), min_size=2, max_size=50), st.floats(1e-6, 0.4))
def test_bounds_lie_between_the_mean_and_the_ceiling_and_follow_delta(method, values, delta):
    bound = upper_mean(values, -2.0, 3.0, delta, method)
    assert bound <= 3.0 + 1e-12
    assert upper_mean(values, -2.0, 3.0, delta / 10, method) >= bound - 1e-9
    if method != "predictable":  # its early bets may be lost before they are tuned
        assert bound >= np.mean(values) - 1e-9
        assert upper_mean(values[::-1], -2.0, 3.0, delta, method) == pytest.approx(bound, abs=1e-9)


def test_betting_beats_the_others_on_calm_blocks():
    values = np.clip(np.random.default_rng(1).normal(0.2, 0.03, 400), 0, 1)
    found = {method: upper_mean(values, 0, 1, 1e-4, method) for method in METHODS}
    assert found["betting"] == min(found.values())
    assert found["betting"] - values.mean() < 0.3 * (found["hoeffding"] - values.mean())


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


def test_block_averages_of_cells_whatever_the_batches():
    rng = np.random.default_rng(4)
    block = np.repeat([3, 5, 9], [700, 1, 90])
    nll = rng.exponential(4.0, block.size).astype(np.float32)
    cells = [(0.01, np.array([0.01, 0.05])), (0.2, np.empty(0))]
    for size in (1000, 64, 1):
        drawn = DrawnCells(np.array([3, 5, 9]), 100, cells)
        for first in range(0, block.size, size):
            drawn.update(block[first : first + size], nll[first : first + size])
        for (alpha, lambdas), means in zip(cells, drawn.means(), strict=True):
            losses = smooth(nll, alpha, 100)
            for row, values in zip(means, [losses, *(np.log1p(-x * losses) for x in lambdas)], strict=True):
                assert row == pytest.approx([values[block == each].mean() for each in (3, 5, 9)], rel=1e-12)
    with pytest.raises(CertificateError, match="no block"):
        drawn.update(np.array([4]), nll[:1])
    with pytest.raises(CertificateError, match="no scored row"):
        DrawnCells(np.array([3]), 100, cells).means()


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
