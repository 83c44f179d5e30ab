"""Averages with centres from moments by entropy, against averages row by row: on the safe side, and order-free."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.bounds.smoothing import loss_ceiling, smooth
from tokenbounds.certificates.averages.entropy_moments import EntropyMoments
from tokenbounds.errors import CertificateError, ScoreError

SIZE = 50_000
TOLERANCE = 2.0**-21
GRID = [(alpha, fraction, kappa) for alpha in (1e-4, 0.9) for fraction in (1e-4, 0.3, 0.995) for kappa in (0.0, 0.5, 1)]


def moments_of(nll, entropy, *rank):
    moments = EntropyMoments(SIZE, (1, 10) if rank else ())
    moments.update(nll, entropy, *rank)
    return moments


def exact_log(nll, entropy, alpha, fraction, kappa):
    lambda_ = fraction / loss_ceiling(alpha, SIZE)
    return lambda_, np.log1p(-lambda_ * (smooth(nll, alpha, SIZE) - kappa * entropy)).mean()


def check_against_exact(nll, entropy):
    moments = moments_of(nll, entropy)
    assert moments.mean_entropy() == pytest.approx(np.mean(entropy, dtype=np.float64), rel=1e-14)
    for alpha, fraction, kappa in GRID:
        mean = smooth(nll, alpha, SIZE).mean()
        assert mean - 1e-13 <= moments.exact_mean_loss(alpha) <= mean + TOLERANCE
        lambda_, log = exact_log(nll, entropy, alpha, fraction, kappa)
        assert log - TOLERANCE <= moments.exact_mean_logs(alpha, [lambda_], kappa)[0] <= log + 1e-12


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 64.0, width=32), st.integers(0, 125)), min_size=1, max_size=30))
def test_on_the_safe_side_for_any_losses_and_entropies(tokens):
    nll, steps = (np.array(values, np.float32) for values in zip(*tokens, strict=True))
    check_against_exact(nll, steps / 8)


def test_on_the_safe_side_at_the_edges_of_bins():
    """Losses all on one side of their bins' middles, where the expansion is worst; also tiny ones."""
    for shift in (1e-7, 0.25 / 16, 0.9999 / 16):
        nll = np.arange(0, 1024, 0.5) / 16 + shift
        check_against_exact(nll, np.arange(nll.size) % 126 / 8)
    check_against_exact(np.geomspace(1e-12, 60.0, 999), np.zeros(999))


def test_without_the_cubes_the_error_would_show():
    """Cubes are needed: losses near the ceiling, at the edge of their bin, from counts and two moments."""
    nll = np.full(9, 15 + 0.999 / 16)
    moments = moments_of(nll, np.zeros(9))
    lambda_, log = exact_log(nll, np.zeros(9), 0.9, 0.995, 0.0)
    error = log - moments.exact_mean_logs(0.9, [lambda_])[0]
    moments._cells[..., 3] = 0
    assert 0 < 2 * error < abs(log - moments.exact_mean_logs(0.9, [lambda_])[0])


def test_huge_losses_cost_the_ceiling():
    moments = moments_of(np.array([np.inf, 65.0, 3e38, 0.0], np.float32), np.zeros(4))
    wanted = 0.75 * loss_ceiling(0.1, SIZE) + 0.25 * smooth([0.0], 0.1, SIZE)[0]
    assert moments.exact_mean_loss(0.1) == pytest.approx(wanted, abs=TOLERANCE)


def test_order_batches_and_merging_leave_no_trace():
    rng = np.random.default_rng(3)
    nll, entropy = rng.exponential(4.0, 70_001), rng.integers(0, 126, 70_001) / 8
    rank = rng.integers(1, 20, nll.size)
    whole = moments_of(nll, entropy, rank)
    parts = moments_of(nll[:333], entropy[:333], rank[:333])
    for part in np.array_split(rng.permutation(np.arange(333, nll.size)), 5):
        parts.merge(moments_of(nll[part], entropy[part], rank[part]))
    assert parts.error_rate(10) == whole.error_rate(10) == np.mean(rank > 10)
    assert parts.exact_mean_loss(0.05) == whole.exact_mean_loss(0.05)
    assert parts.exact_mean_logs(0.05, [0.03], 0.5)[0] == whole.exact_mean_logs(0.05, [0.03], 0.5)[0]


def test_impossible_values_are_refused(monkeypatch):
    for nll, entropy in ((-1.0, 1.0), (np.nan, 1.0), (1.0, -0.125), (1.0, 15.75), (1.0, np.nan)):
        with pytest.raises(ScoreError, match="impossible"):
            moments_of([nll], [entropy])
    with pytest.raises(ScoreError, match="ranks are missing"):
        EntropyMoments(SIZE, (1,)).update([1.0], [1.0])
    with pytest.raises(CertificateError, match="no losses"):
        EntropyMoments(SIZE).exact_mean_loss(0.1)
    monkeypatch.setattr("tokenbounds.certificates.averages.entropy_moments.MOST_TOKENS", 1)
    with pytest.raises(CertificateError, match="sample"):
        moments_of(np.ones(3), np.ones(3)).exact_mean_loss(0.1)
