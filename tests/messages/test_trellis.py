"""Trellis quantization: optimal paths, exact decoding, and the distance to the rate-distortion limit."""

import itertools

import numpy as np
import pytest
from tokenbounds.compression.posttraining.viterbi import MAGNITUDES, quantize_sequences
from tokenbounds.errors import MessageError
from tokenbounds.messages.coding.adaptive import decode_planes, encode_planes
from tokenbounds.messages.coding.tensors import decode_codes, encode_codes
from tokenbounds.messages.coding.trellis import STATES, Trellis, codes_of, grid_points, trellis

GAUSSIAN = np.random.default_rng(0).normal(size=(512, 128))


def point_lengths(points):
    """Bits of grid points by magnitude, float64 [1, 64], from their histogram, smoothed by a law of the same mean."""
    magnitudes = np.abs(points.reshape(-1))
    counts = np.bincount(np.minimum(magnitudes, MAGNITUDES - 1), minlength=MAGNITUDES)
    return laplacian_lengths(float(magnitudes.mean()), counts)


def laplacian_lengths(mean_magnitude, counts=None):
    """Bits of grid points by magnitude of a geometric law, plus counts: even and odd ones are one distribution each."""
    magnitudes = np.arange(MAGNITUDES)
    law = np.exp(-magnitudes / max(mean_magnitude, 0.25)) + 1e-9
    law[0] /= 2  # zero has no sign
    lengths = np.empty(MAGNITUDES)
    for grid in (slice(0, None, 2), slice(1, None, 2)):
        mass = (0.0 if counts is None else counts[grid]) + 8.0 * law[grid] / law[grid].sum()
        lengths[grid] = -np.log2(mass / mass.sum())
    return (lengths + (magnitudes > 0))[None]


def fitted(values, machine, weight, rounds=5):
    """Grid points after alternating between paths and code lengths."""
    lengths = laplacian_lengths(float(np.abs(values).mean()))
    for _ in range(rounds):
        points = quantize_sequences(values, machine, lengths, weight)
        lengths = point_lengths(points)
    return points


def entropy(symbols):
    """Bits of all symbols in an ideal order-0 code."""
    counts = np.unique(symbols, return_counts=True)[1]
    return -(counts * np.log2(counts / counts.sum())).sum()


def scalar_codes(values, weight):
    """Codes of least squared error + weight · bits, without any trellis."""
    codes = np.rint(values).astype(np.int64)
    grid = np.arange(-8, 9)
    for _ in range(5):
        counts = np.bincount(codes.reshape(-1) + 8, minlength=17) + 0.1
        prices = -weight * np.log2(counts / counts.sum())
        codes = np.argmin((values[..., None] - grid) ** 2 + prices, axis=-1) - 8
    return codes


def gap_db(step, points, bits):
    """Decibels above the Gaussian limit D = 2^(−2R), at the rate actually spent."""
    error = np.mean((GAUSSIAN - step * points) ** 2)
    return 10 * np.log10(error * 4.0 ** (bits / points.size))


def test_machine_by_hand():
    machine = trellis(8)
    assert machine.odd.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    # Registers r3 r2 r1; h0 = 1011, h1 = 0100: r1' = r2 + r1, r2' = r3 + b, r3' = r1.
    assert machine.following.tolist() == [[0, 2], [5, 7], [1, 3], [4, 6], [2, 0], [7, 5], [3, 1], [6, 4]]


@pytest.mark.parametrize("states", STATES)
def test_paths_that_part_meet_again_late(states):
    """Two branches into a state come from the same grid with different parities, so points there are apart."""
    machine = trellis(states)
    for state in range(states):
        origins, parities = np.nonzero(machine.following == state)
        assert sorted(parities.tolist()) == [0, 1]
        assert machine.odd[origins[0]] == machine.odd[origins[1]]


def test_grid_points_by_hand():
    codes = np.array([[1], [0], [-1], [2], [0]])
    # States 0 →1→ 2 →0→ 1 →1→ 7 →0→ 6: grids even, even, odd, odd, even.
    assert grid_points(codes, trellis(8))[:, 0].tolist() == [2, 0, -1, 5, 0]


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_paths_cost_no_more_than_any_other(states, weight):
    machine, rng = trellis(states), np.random.default_rng(1)
    lengths = laplacian_lengths(2.0)
    every = np.array(list(itertools.product(range(-2, 3), repeat=5))).T
    candidates = grid_points(every, machine)
    prices = lengths[0, np.abs(candidates)]
    for _ in range(20):
        values = rng.uniform(-3, 3, size=(5, 1))
        costs = ((values - candidates) ** 2 + weight * prices).sum(axis=0)
        points = quantize_sequences(values, machine, lengths, weight)
        price = lengths[0, np.abs(points)]
        assert np.isclose(((values - points) ** 2 + weight * price).sum(), costs.min())


@pytest.mark.parametrize("states", STATES)
def test_codes_give_back_the_grid_points(states):
    machine = trellis(states)
    points = quantize_sequences(GAUSSIAN[:60] / 0.05, machine, laplacian_lengths(16.0), 0.3)
    assert np.abs(codes_of(points)).max() > 30
    assert np.array_equal(grid_points(codes_of(points), machine), points)
    assert np.abs(points - GAUSSIAN[:60] / 0.05).max() < 4


def test_gap_to_the_limit_at_two_bits():
    scalar = scalar_codes(GAUSSIAN / 0.98, 0.12)
    assert 1.95 < entropy(scalar) / scalar.size < 2.05
    assert 1.4 < gap_db(0.98, scalar, entropy(scalar)) < 1.65
    for states, limit in ((8, 0.6), (32, 0.45)):
        machine = trellis(states)
        points = fitted(GAUSSIAN / 0.5, machine, 0.35)
        bits = 8 * len(encode_planes([points], [machine]))
        assert 1.95 < bits / points.size < 2.05
        assert gap_db(0.5, points, bits) < limit


def test_gap_below_one_bit_stays_small():
    machine = trellis(8)
    points = fitted(GAUSSIAN / 0.95, machine, 0.45, rounds=8)
    bits = 8 * len(encode_planes([points], [machine]))
    assert 0.85 < bits / points.size < 1.0
    assert gap_db(0.95, points, bits) < 0.65


def test_a_machine_that_parities_do_not_drive_is_caught():
    broken = Trellis(np.repeat(trellis(8).following[:, :1], 2, axis=1), trellis(8).odd)
    points = fitted(GAUSSIAN / 0.5, broken, 0.35)
    assert gap_db(0.5, points, 8 * len(encode_planes([points], [broken]))) > 1.0


def test_the_coder_is_told_the_grid_for_nothing():
    machine = trellis(8)
    points = fitted(GAUSSIAN / 0.95, machine, 0.45)
    codes, odd = codes_of(points), points & 1
    ideal = entropy(codes[odd == 0]) + entropy(codes[odd == 1])
    assert 8 * len(encode_planes([points], [machine])) < 1.01 * ideal
    assert 8 * len(encode_planes([codes])) > 1.1 * ideal


@pytest.mark.parametrize("coder", ["adaptive", "static"])
def test_arrays_with_and_without_a_trellis_share_a_stream(coder):
    machine, rng = trellis(32), np.random.default_rng(2)
    first = fitted(GAUSSIAN[:40, :30] / 0.3, machine, 0.3, rounds=2)
    second = rng.integers(-5, 6, size=(20, 7))
    vector = rng.integers(-9, 9, size=11)
    data = encode_codes([vector, first, second], coder, [None, machine, None])
    shapes = [vector.shape, first.shape, second.shape]
    decoded = decode_codes(data, shapes, coder, [None, machine, None])
    assert all(np.array_equal(a, b) for a, b in zip(decoded, (vector, first, second), strict=True))
    assert all(array.dtype == np.int32 for array in decoded)


def test_points_off_the_grid_are_refused():
    machine = trellis(8)
    points = quantize_sequences(GAUSSIAN[:10, :3], machine, laplacian_lengths(1.0), 0.3)
    points[4, 1] += 1
    with pytest.raises(MessageError, match="trellis"):
        encode_planes([points], [machine])


def test_bytes_of_a_trellis_are_pinned():
    machine = trellis(8)
    codes = (np.arange(60).reshape(12, 5) * 7) % 5 - 2
    points = grid_points(codes, machine)
    data = encode_planes([points], [machine])
    assert data.hex() == "a6262ea7f119d15ec5e0194db1f8"
    assert np.array_equal(decode_planes(data, [points.shape], [machine])[0], points)


def test_damaged_bytes_of_a_trellis_decode_to_something_or_are_refused():
    rng = np.random.default_rng(3)
    for size in range(40):
        try:
            decoded = decode_planes(rng.bytes(size), [(9, 4), (3, 3)], [trellis(8), None])
            assert [array.shape for array in decoded] == [(9, 4), (3, 3)]
        except MessageError:
            pass
