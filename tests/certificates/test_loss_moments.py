"""Averages from moments against averages row by row: on the safe side, within the stated error, and order-free."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.bounds.smoothing import loss_ceiling, smooth
from tokenbounds.certificates.averages.histogram import LossHistogram
from tokenbounds.certificates.averages.moments import ROUNDING, LossMoments
from tokenbounds.errors import CertificateError

SIZE = 50_000
GRID = [(alpha, fraction) for alpha in (1e-4, 0.05, 0.9) for fraction in (1e-4, 0.3, 0.995)]


def exact(nll, alpha, fraction):
    losses = smooth(nll, alpha, SIZE)
    lambda_ = fraction / loss_ceiling(alpha, SIZE)
    return losses.mean(), lambda_, np.log1p(-lambda_ * losses).mean()


def check_against_exact(nll):
    moments = LossMoments(SIZE)
    moments.update(nll)
    for alpha, fraction in GRID:
        mean, lambda_, log = exact(nll, alpha, fraction)
        assert mean - 1e-14 <= moments.exact_mean_loss(alpha) <= mean + 2 * ROUNDING + 1e-14
        assert log - 2 * ROUNDING - 1e-13 <= moments.exact_mean_logs(alpha, [lambda_])[0] <= log + 1e-13


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 63.5, width=32), min_size=1, max_size=30))
def test_within_the_stated_error_for_any_losses(nll):
    check_against_exact(np.array(nll, np.float32))


def test_within_the_stated_error_where_bins_are_coarsest():
    """Losses at the edges of bins, all on one side, where the expansion is worst; also tiny and 64-bit ones."""
    edges = np.arange(1, 60_000, 7) / 4096
    for shift in (0.0, 1e-9, 0.5 / 4096, 0.999 / 4096):
        check_against_exact((edges + shift).astype(np.float32))
        check_against_exact(edges + shift)
    check_against_exact(np.geomspace(1e-12, 1e-3, 999).astype(np.float32))
    check_against_exact(np.geomspace(1e-12, 60.0, 999))


def test_without_the_second_moment_the_error_would_show():
    """The tolerance above can fail: the same averages from counts and first moments alone."""
    nll = (12.0 + (np.arange(1, 6000) + 0.999) / 4096).astype(np.float32)
    moments = LossMoments(SIZE)
    moments.update(nll)
    moments._settle()
    moments._squares[:] = 0
    assert abs(moments.exact_mean_loss(0.9) - exact(nll, 0.9, 0.3)[0]) > 4 * ROUNDING


def test_infinite_and_huge_losses_cost_the_ceiling():
    moments = LossMoments(SIZE)
    moments.update(np.array([np.inf, 65.0, 3e38, 0.0], np.float32))
    wanted = 0.75 * loss_ceiling(0.1, SIZE) + 0.25 * smooth([0.0], 0.1, SIZE)[0]
    assert moments.exact_mean_loss(0.1) == pytest.approx(wanted, abs=1e-10)


def test_order_batches_and_merging_leave_no_trace():
    rng = np.random.default_rng(3)
    for dtype in (np.float32, np.float64):
        nll = rng.exponential(4.0, 70_001).astype(dtype)
        whole, parts, left = LossMoments(SIZE), LossMoments(SIZE), LossMoments(SIZE)
        whole.update(nll)
        for part in np.array_split(rng.permutation(nll), 13):
            parts.update(part)
        left.update(nll[:333])
        rest = LossMoments(SIZE)
        rest.update(nll[333:])
        left.merge(rest)
        for other in (parts, left):
            assert other.exact_mean_loss(0.05) == whole.exact_mean_loss(0.05)
            assert other.exact_mean_logs(0.05, [0.03])[0] == whole.exact_mean_logs(0.05, [0.03])[0]


def test_many_updates_are_settled_into_integers(monkeypatch):
    monkeypatch.setattr("tokenbounds.certificates.averages.moments._MOST_PENDING", 100)
    nll = np.random.default_rng(4).exponential(4.0, 5000).astype(np.float32)
    often, once = LossMoments(SIZE), LossMoments(SIZE)
    for part in np.array_split(nll, 40):
        often.update(part)
    once.update(nll)
    assert often.exact_mean_logs(0.05, [0.03])[0] == once.exact_mean_logs(0.05, [0.03])[0]
    assert once.exact_mean_logs(0.05, [0.03])[0] == pytest.approx(
        np.log1p(-0.03 * smooth(nll, 0.05, SIZE)).mean(), abs=2 * ROUNDING
    )


def test_what_has_no_moments_is_refused(monkeypatch):
    moments = LossMoments(SIZE)
    with pytest.raises(CertificateError, match="no losses"):
        moments.exact_mean_loss(0.1)
    with pytest.raises(CertificateError, match="weighted"):
        moments.update(np.ones(2, np.float32), None, [1.0, 2.0])
    with pytest.raises(CertificateError, match="without moments"):
        moments.merge(LossHistogram(SIZE))
    monkeypatch.setattr("tokenbounds.certificates.averages.moments.MOST_TOKENS", 1)
    moments.update(np.ones(3, np.float32))
    with pytest.raises(CertificateError, match="sample"):
        moments.exact_mean_loss(0.1)
