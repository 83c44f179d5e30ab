"""Lattice codebooks: distinct points of the right lattice, exact searches, published order, known distortions."""

import hashlib

import numpy as np
from tokenbounds.models.pretrained.e8p import ball_points, e8p_points, nearest_ball, nearest_e8p

RNG = np.random.default_rng(0)
VECTORS = (RNG.normal(size=(120, 8)) * RNG.uniform(0.2, 2.5, size=(120, 1))).astype(np.float32)
GAUSSIAN = RNG.normal(size=(40_000, 8)).astype(np.float32)


def distance(vectors, points):
    """Squared distances, float64 [vectors, points]."""
    wide = vectors.astype(np.float64)
    return (wide**2).sum(axis=1)[:, None] + (points**2).sum(axis=1) - 2 * wide @ points.T


def test_e8p_has_all_its_points_in_two_shifted_halves():
    points = e8p_points().astype(np.int64)
    assert len(np.unique(points, axis=0)) == 1 << 16
    up, down = (points[(points[:, 0] % 4) == remainder] for remainder in (3, 1))
    assert len(up) == len(down) == 1 << 15  # quarters are odd halves ± 1
    for half, move in ((up, 1), (down, -1)):
        odd = (half - move) // 2
        assert np.all(odd % 2 == 1) and np.all(odd.sum(axis=1) % 4 == 0)
    lengths = ((up - 1) ** 2).sum(axis=1) / 16
    assert lengths.min() == 2 and lengths.max() == 12
    assert len(np.unique(np.abs(up - 1), axis=0)) == 256


def test_ball_is_the_origin_the_roots_and_fifteen_axes():
    points = ball_points().astype(np.int64)
    lengths = (points**2).sum(axis=1) / 4
    assert len(np.unique(points, axis=0)) == 256
    assert np.unique(lengths, return_counts=True)[1].tolist() == [1, 240, 15]
    assert np.all(points.sum(axis=1) % 4 == 0)


def test_codes_are_those_of_published_checkpoints():
    digests = [hashlib.sha256(points.tobytes()).hexdigest()[:16] for points in (e8p_points(), ball_points())]
    assert digests == ["ea3883a85a627590", "37ce1a66345c1bbc"]
    assert e8p_points()[0].tolist() == [3] * 8
    assert e8p_points()[1].tolist() == [1] * 8  # one sign bit: an odd parity, which moves down instead


def test_searches_are_exact():
    for points, search in ((e8p_points() / 4, nearest_e8p), (ball_points() / 2, nearest_ball)):
        codes = search(VECTORS)
        assert codes.dtype == np.uint16
        found = ((VECTORS - points[codes]) ** 2).sum(axis=1)
        assert np.allclose(found, distance(VECTORS, points).min(axis=1), rtol=1e-5)


def test_points_are_their_own_nearest():
    codes = RNG.integers(0, 1 << 16, size=500).astype(np.uint16)
    assert np.array_equal(nearest_e8p(e8p_points()[codes] / np.float32(4)), codes)
    assert np.array_equal(nearest_ball(ball_points() / np.float32(2)), np.arange(256))


def test_a_search_without_the_parity_of_signs_is_caught():
    points = e8p_points() / 4
    naive = points[nearest_e8p(np.abs(VECTORS))] * np.where(VECTORS < 0, -1, 1)
    assert np.mean(distance(naive[:40], points).min(axis=1) > 0.1) > 0.3  # many are no points at all


def test_distortions_are_those_of_the_paper():
    """Decibels above the Gaussian limit: 1.66 at 2 bits, 2.77 at 3, 3.94 at 4 (greedy residuals)."""
    scaled = GAUSSIAN * np.float32(1.03)
    first = scaled - e8p_points()[nearest_e8p(scaled)] / np.float32(4)
    second = 3.45 * first - e8p_points()[nearest_e8p(3.45 * first)] / 4
    narrow = GAUSSIAN * np.float32(0.98)
    coarse = narrow - e8p_points()[nearest_e8p(narrow)] / np.float32(4)
    residual = 2.04 * coarse - ball_points()[nearest_ball(2.04 * coarse)] / 2
    gaps = [
        10 * np.log10(np.mean(error**2) / scale**2 * 4.0**bits)
        for error, scale, bits in ((first, 1.03, 2), (residual, 0.98 * 2.04, 3), (second, 1.03 * 3.45, 4))
    ]
    assert np.allclose(gaps, [1.66, 2.77, 3.94], atol=0.06)
