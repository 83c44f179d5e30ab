"""Rate–distortion-optimised rounding: its cost is least, its code lengths are those of a possible code."""

import numpy as np
import pytest
from tokenbounds.compression.posttraining.rates import RateModel, round_column
from tokenbounds.messages.coding.adaptive import encode_planes

RNG = np.random.default_rng(1)


def scaled_codes(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    spread = np.exp(0.8 * rng.normal(size=(rows, 1)) + 0.8 * rng.normal(size=(1, columns)))
    return np.rint(rng.normal(size=(rows, columns)) * spread).astype(np.int32)


def test_lengths_are_those_of_a_probability_distribution():
    lengths = RateModel.fit(scaled_codes(100, 80)).lengths
    total = 2.0 ** -lengths[:, 0] + 2 * np.sum(2.0 ** -lengths[:, 1:], axis=1)
    assert np.allclose(total, 1.0)
    assert np.all(lengths > 0)


def test_estimated_bits_are_near_those_of_the_coder():
    codes = scaled_codes(400, 300)
    real = 8 * len(encode_planes([codes]))
    assert RateModel.fit(codes).bits(codes) == pytest.approx(real, rel=0.03)


def candidates(target):
    nearest, towards_zero = round(target), -np.sign(target)
    return {0, *(nearest + k * towards_zero for k in range(min(3, abs(nearest) + 1)))}


def test_no_code_nearby_is_cheaper():
    codes = scaled_codes(200, 3)
    model = RateModel.fit(codes)
    targets = RNG.normal(size=200) * 2
    rounded = round_column(targets, 1, model, 0.12)
    for row in range(200):
        place = RateModel(model.row_bands[row : row + 1], model.column_bands[1:2], model.lengths)
        costs = {
            code: (targets[row] - code) ** 2 + 0.12 * place.bits(np.array([[code]], dtype=np.int32))
            for code in candidates(targets[row])
        }
        assert costs[rounded[row]] == pytest.approx(min(costs.values()), abs=1e-12)


def test_weight_zero_rounds_to_the_nearest():
    model = RateModel.fit(scaled_codes(500, 2))
    targets = RNG.normal(size=500) * 3
    assert np.array_equal(round_column(targets, 0, model, 0.0), np.rint(targets).astype(np.int32))


def test_it_lowers_error_at_equal_rate():
    """Rounding with weight 0.12 on finer steps beats plain rounding at the same number of bits."""
    values = RNG.laplace(size=(300, 200))

    def trial(step, weight):
        codes = np.rint(values / step).astype(np.int32)
        if weight:
            for _ in range(3):
                model = RateModel.fit(codes)
                columns = [round_column(values[:, k] / step, k, model, weight) for k in range(200)]
                codes = np.stack(columns, axis=1)
        return RateModel.fit(codes).bits(codes), np.mean((values - codes * step) ** 2)

    bits, error = trial(1.5, 0.0)
    better = min(error for rate, error in (trial(step, 0.12) for step in np.linspace(1, 1.5, 26)) if rate <= bits)
    assert better < 0.98 * error


def test_large_magnitudes_and_empty_bands_are_charged():
    codes = np.zeros((4, 4), dtype=np.int32)
    model = RateModel.fit(codes)
    assert model.bits(codes) < 8
    codes[0, 0] = 1 << 20
    assert 20 < model.bits(codes) < 200
