"""LDLQ: plain rounding where inputs are independent, a lower cost where they are not, equal to an exact search."""

import itertools

import numpy as np
import pytest
from proxy import proxy_loss
from tokenbounds.compression.posttraining.ldlq import LdlFactor, ldl_factor, ldlq
from tokenbounds.errors import CalibrationError

RNG = np.random.default_rng(0)


def correlated(size, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(4 * size, size)) @ (np.eye(size) + 0.7 * rng.normal(size=(size, size)) / np.sqrt(size))
    return inputs.T @ inputs / len(inputs)


def rounding(targets, first):
    return np.rint(targets)


@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_factor_multiplies_back_to_the_damped_matrix(size):
    hessian = correlated(size)
    factor = ldl_factor(hessian, damping=1e-3)
    unit = np.eye(size) + factor.feedback
    damped = hessian + 1e-3 * np.trace(hessian) / size * np.eye(size)
    assert np.allclose(unit @ np.diag(factor.diagonal) @ unit.T, damped, atol=1e-10)
    assert np.array_equal(factor.feedback, np.triu(factor.feedback, 1))


def test_factor_by_hand():
    factor = ldl_factor(np.array([[2.0, 1.0], [1.0, 4.0]]), damping=0.0)
    assert factor.diagonal.tolist() == pytest.approx([1.75, 4.0])
    assert factor.feedback.tolist() == [[0.0, 0.25], [0.0, 0.0]]


def test_two_columns_by_hand():
    factor = LdlFactor(np.array([[0.0, 0.5], [0.0, 0.0]]), np.ones(2))
    # 0.4 is rounded to 0; its error 0.4 raises the second target from 0.4 to 0.6.
    assert ldlq(np.array([[0.4, 0.4]]), factor, rounding).tolist() == [[0.0, 1.0]]


def test_independent_inputs_are_rounded_plainly():
    weight = RNG.normal(size=(7, 30))
    factor = ldl_factor(np.diag(RNG.uniform(0.1, 3, 30)))
    assert np.array_equal(ldlq(weight, factor, rounding), np.rint(weight))
    assert np.array_equal(ldlq(weight, factor, rounding, block=8), np.rint(weight))


@pytest.mark.parametrize("size", [16, 200])
def test_cost_is_the_weighted_error_of_the_targets_and_below_plain_rounding(size):
    hessian, weight, seen = correlated(size), RNG.normal(size=(20, size)), []

    def recorded(targets, first):
        seen.append(np.sum((np.rint(targets) - targets) ** 2))
        return np.rint(targets)

    factor = ldl_factor(hessian, damping=1e-9)
    values = ldlq(weight, factor, recorded)
    assert np.isclose(proxy_loss(weight - values, hessian), factor.diagonal @ np.array(seen), rtol=1e-6)
    assert proxy_loss(weight - values, hessian) < 0.8 * proxy_loss(weight - np.rint(weight), hessian)


def test_no_rounding_of_a_column_does_better_given_those_before():
    """Each value minimises what the cost would be if all later columns were real-valued."""
    hessian, weight = correlated(4), RNG.normal(size=(1, 4))
    values = ldlq(weight, ldl_factor(hessian, damping=0.0), rounding)[0]
    for column in range(4):
        costs = {}
        for candidate in values[column] + np.arange(-2, 3):
            fixed = np.append(values[:column], candidate) - weight[0, : column + 1]
            rest = slice(column + 1, 4)
            schur = hessian[: column + 1, : column + 1] - hessian[: column + 1, rest] @ np.linalg.solve(
                hessian[rest, rest], hessian[rest, : column + 1]
            )
            costs[candidate] = fixed @ schur @ fixed
        assert min(costs, key=costs.get) == values[column]


def test_mostly_near_the_best_of_all_roundings():
    ratios = []
    for seed in range(20):
        hessian, weight = correlated(4, seed), np.random.default_rng(seed).normal(size=(1, 4))
        values = ldlq(weight, ldl_factor(hessian, damping=0.0), rounding)
        best = min(
            proxy_loss(weight - np.floor(weight) - np.array(corner), hessian)
            for corner in itertools.product((-1, 0, 1, 2), repeat=4)
        )
        ratios.append(proxy_loss(weight - values, hessian) / best)
    assert np.median(ratios) < 1.1


@pytest.mark.parametrize(("columns", "block"), [(24, 8), (20, 8), (300, 4), (5, 8)])
def test_blocks_get_their_targets_in_order_and_feedback_between_them(columns, block):
    hessian, weight, calls = correlated(columns), RNG.normal(size=(6, columns)), []

    def recorded(targets, first):
        calls.append((first, targets.shape))
        return np.rint(targets)

    values = ldlq(weight, ldl_factor(hessian), recorded, block=block)
    starts = range(0, columns, block)
    assert calls == [(first, (6, min(block, columns - first))) for first in starts]
    if len(calls) > 1:
        assert proxy_loss(weight - values, hessian) < proxy_loss(weight - np.rint(weight), hessian)


def test_block_feedback_is_the_optimum_given_the_blocks_before():
    """With real-valued columns behind, the best correction of block errors e is −H22⁻¹ H21 e: the cost then is e's."""
    hessian, weight = correlated(12), RNG.normal(size=(3, 12))
    targets = {}

    def recorded(wanted, first):
        targets[first] = wanted.copy()
        return np.rint(wanted) if first == 0 else wanted

    values = ldlq(weight, ldl_factor(hessian, damping=0.0), recorded, block=4)
    errors = (weight - values)[:, :4]
    best = -np.linalg.solve(hessian[4:, 4:], hessian[4:, :4] @ errors.T).T
    assert np.allclose((weight - values)[:, 4:], best, atol=1e-8)


def test_inputs_that_never_vary_do_no_harm():
    hessian = correlated(10)
    hessian[3], hessian[:, 3] = 0, 0
    values = ldlq(RNG.normal(size=(4, 10)), ldl_factor(hessian), rounding)
    assert np.all(np.isfinite(values))
    assert np.array_equal(ldlq(np.full((2, 3), 0.7), ldl_factor(np.zeros((3, 3))), rounding), np.ones((2, 3)))


@pytest.mark.parametrize(
    "hessian", [np.ones((2, 3)), np.full((2, 2), np.nan), np.array([[1.0, 2.0], [2.0, 1.0]]), -np.eye(3)]
)
def test_bad_moments_are_refused(hessian):
    with pytest.raises(CalibrationError, match="Calibrate"):
        ldl_factor(hessian)
