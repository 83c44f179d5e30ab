"""The worst that any source can do to a bound, computed exactly: dynamic programming over adversaries.

An adversary sees the errors so far and sets the next token's probability of an error. The closed-form bounds see only
the share of errors k / m, so the state is (errors so far, sum of probabilities so far), and what the best adversary
achieves is the largest probability that the mean of its probabilities exceeds the bound: an exact number where a
simulation gives an estimate, for every source at once.
"""

import math

import numpy as np
import pytest
from inverse_kl import inverse_kl
from tokenbounds.bounds.azuma import bound_azuma, bound_azuma_predictable
from tokenbounds.bounds.betting import betting_value, bound_betting, bound_errors, mean_log
from tokenbounds.bounds.centred import bound_centred_errors
from tokenbounds.bounds.freedman import bound_freedman

GRID = 12  # probabilities that the adversary chooses from: multiples of 1 / GRID


def worst_case(bounds):
    """Largest probability that the mean conditional risk exceeds `bounds[k]`, k being the number of errors [m + 1]."""
    tokens = len(bounds) - 1
    sums = np.arange(tokens * GRID + 1)  # sum of the probabilities x GRID
    failed = (sums / (GRID * tokens) > np.asarray(bounds)[:, None] + 1e-12).astype(float)  # [errors, sums]
    for _ in range(tokens):
        best = np.zeros_like(failed)
        for step in range(GRID + 1):
            later = np.zeros_like(failed)
            later[:, : sums.size - step] = failed[:, step:]  # after a token of this probability, without an error
            after = np.vstack([later[1:], np.zeros((1, sums.size))])  # and with one
            best = np.maximum(best, (1 - step / GRID) * later + step / GRID * after)
        failed = best
    return failed[0, 0]


def values(bound, tokens, delta):
    return [bound(errors / tokens, math.log(1 / delta), tokens) for errors in range(tokens + 1)]


def spread(share):
    return {"losses": [0.0, 1.0], "ceiling": 1.0, "weights": [1.0 - share, share]}


BOUNDS = {
    "azuma": lambda share, total, m: bound_azuma(share, 1.0, total, m).value,
    "freedman": lambda share, total, m: (
        bound_freedman(**spread(share), complexity_nats=total, lambdas=8, samples=m).value
    ),
    "betting": lambda share, total, m: (
        bound_betting(**spread(share), complexity_nats=total, lambdas=8, samples=m).value
    ),
    "errors": lambda share, total, m: bound_errors(share, total, m).value,
}


@pytest.mark.parametrize("delta", [0.3, 0.05])
@pytest.mark.parametrize("tokens", [7, 40])
@pytest.mark.parametrize("name", BOUNDS)
def test_no_source_makes_a_bound_fail_more_often_than_it_says(name, tokens, delta):
    assert worst_case(values(BOUNDS[name], tokens, delta)) <= delta


def test_errors_waste_little():
    """The price of averaging leaves a good part of delta to be used; paying for every share of errors leaves none."""
    assert worst_case(values(BOUNDS["errors"], 40, 0.05)) > 0.25 * 0.05
    every = values(lambda q, total, m: inverse_kl(q, (total + math.log(2 * (m + 1))) / m), 40, 0.05)
    assert worst_case(every) < 0.02 * 0.05


BROKEN = {
    "inverse kl, unpaid": lambda share, total, m: inverse_kl(share, total / m),
    "half the range": lambda share, total, m: share + 0.5 * math.sqrt(total / (2 * m)),
    "no confidence": lambda share, total, m: bound_errors(share, 0.1 * total, m).value,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bound_is_caught(name):
    assert worst_case(values(BROKEN[name], 40, 0.05)) > 0.05


def worst_case_of_ranges(tokens, gap):
    """How often fair losses of 0 or 2 are ahead of `gap(square)` at the end, if the source may make the rest certain.

    Ranges are 2, and 0 from when it likes: over all its rules. `square` is the mean square of all ranges.
    """
    failed = np.zeros(2 * tokens + 1)  # by how far the losses are below what was expected, - tokens .. tokens
    for used in range(tokens, -1, -1):
        ahead = np.arange(-tokens, tokens + 1) / tokens > gap(4.0 * used / tokens) + 1e-12
        later = np.zeros_like(failed)
        if used < tokens:
            later[1:-1] = (failed[2:] + failed[:-2]) / 2
        failed = np.maximum(ahead, later)
    return failed[tokens]


def test_no_source_makes_azumas_bound_fail_by_its_ranges_and_a_lambda_fitted_to_them_is_caught():
    m, total = 400, math.log(1 / 0.05)
    guesses = np.geomspace(2 / math.sqrt(m), 2, 8)
    paid = worst_case_of_ranges(m, lambda square: bound_azuma_predictable(0.0, square, guesses, total, m).value)
    fitted = worst_case_of_ranges(m, lambda square: math.sqrt(square * total / (2 * m)))
    assert 0.001 < paid <= 0.05 < fitted


# --- with a predictable centre ----------------------------------------------------------------------------------------


def worst_case_by_kind(bounds):
    """As `worst_case`, where every other token is of a second kind: `bounds[a, b]` for a and b errors of each kind."""
    half = bounds.shape[0] - 1
    sums = np.arange(2 * half * GRID + 1)
    failed = (sums / (GRID * 2 * half) > bounds[:, :, None] + 1e-12).astype(float)  # [errors, errors, sums]
    for token in reversed(range(2 * half)):
        best = np.zeros_like(failed)
        after = np.zeros_like(failed)  # after one more error of the token's kind
        if token % 2:
            after[:, :-1] = failed[:, 1:]
        else:
            after[:-1] = failed[1:]
        for step in range(GRID + 1):
            size = sums.size - step
            best[..., :size] = np.maximum(
                best[..., :size], (1 - step / GRID) * failed[..., step:] + step / GRID * after[..., step:]
            )
        failed = best
    return failed[0, 0, 0]


def centred_values(half, total, kappa, lambda_=0.97):
    """The bound after a and b errors of tokens whose entropies are 1 and 0, with one lambda: [half + 1, half + 1]."""
    found = np.empty((half + 1, half + 1))
    for a, b in np.ndindex(found.shape):
        log = mean_log([-kappa, 1 - kappa, 0, 1], [lambda_], [half - a, a, half - b, b])[0]
        found[a, b] = kappa / 2 + betting_value(log, lambda_, total, 2 * half)
    return found


def error_values(half, total, centres):
    """The bound of errors with the wealth of centres [q, 2], by errors of each kind: [half + 1, half + 1]."""
    found = np.empty((half + 1, half + 1))
    for a, b in np.ndindex(found.shape):
        found[a, b] = bound_centred_errors([a, b], [half, half], np.asarray(centres), total)[0].value
    return found


def test_no_source_makes_a_bound_of_errors_with_centres_fail_more_often_than_it_says(monkeypatch):
    monkeypatch.setattr("tokenbounds.bounds.betting._ERROR_LAMBDAS", 4)
    total = math.log(1 / 0.05)
    values = error_values(10, total, [[0.0, 0.0], [0.5, 0.0], [0.75, 0.25]])
    assert worst_case_by_kind(values) <= 0.05
    # A centre that has seen its token is not one.
    peeking = np.empty((11, 11))
    for a, b in np.ndindex(11, 11):
        counts = [a + b, 20 - a - b]
        peeking[a, b] = bound_centred_errors([a + b, 0], counts, np.array([[0.99, 0.0]]), total)[0].value
    assert worst_case_by_kind(peeking) > 0.05


def chosen_error_values(half, total, kappas=(0.1, 0.2, 0.4), lambdas=(0.6, 0.8, 0.97), paid=True):
    """The bound of errors with the best of some centres and lambdas, or without one, as on a sample."""
    price = math.log(1 + len(kappas)) if paid else 0.0
    found = np.empty((half + 1, half + 1))
    for a, b in np.ndindex(found.shape):
        values = [bound_errors((a + b) / (2 * half), total + price, 2 * half).value]
        for kappa in kappas:
            centre, spent = 1 - 2.0 ** (-8 * kappa), total + price + (math.log(len(lambdas)) if paid else 0.0)
            logs = mean_log([-centre, 1 - centre, 0, 1], lambdas, [half - a, a, half - b, b])
            values += [
                centre / 2 + betting_value(log, lambda_, spent, 2 * half)
                for log, lambda_ in zip(logs, lambdas, strict=True)
            ]
        found[a, b] = min(values)
    return found


def test_no_source_makes_a_chosen_centre_of_errors_fail_more_often_than_it_says(monkeypatch):
    """Tokens have entropies of 8 bits and of none. It is caught if the choice is not paid for."""
    monkeypatch.setattr("tokenbounds.bounds.betting._ERROR_LAMBDAS", 4)
    total = math.log(1 / 0.3)
    assert 0.01 < worst_case_by_kind(chosen_error_values(8, total)) <= 0.3
    assert worst_case_by_kind(chosen_error_values(8, total, paid=False)) > 0.3


def test_no_source_makes_a_bound_with_centres_fail_more_often_than_it_says():
    """And it is caught if the centre is not paid for: the best of four, each with all of delta."""
    kappas, total = (0.0, 0.5, 1.0, 2.0), math.log(1 / 0.05)
    paid, unpaid = ([centred_values(8, total + price, kappa) for kappa in kappas] for price in (math.log(4), 0.0))
    assert 0.01 < worst_case_by_kind(np.minimum.reduce(paid)) <= 0.05
    assert all(worst_case_by_kind(each) <= 0.05 for each in unpaid)
    assert worst_case_by_kind(np.minimum.reduce(unpaid)) > 0.05


# --- with a control variate -------------------------------------------------------------------------------------------


def variate_values(tokens, total, beta, bounded=True, lambda_=0.9):
    """The bound after k errors by way of a reference that errs where the model does, with one lambda: [tokens + 1].

    If it is not `bounded`, what the reference expected is taken to be what was measured.
    """
    found = np.empty(tokens + 1)
    for errors in range(tokens + 1):
        share = errors / tokens
        log, log_of_reference = (mean_log([0.0, one], [lambda_], [1 - share, share])[0] for one in (1 - beta, 1.0))
        reference = betting_value(log_of_reference, lambda_, total, tokens) if bounded else share
        found[errors] = betting_value(log, lambda_, total, tokens) + beta * reference
    return found


def test_no_source_makes_a_bound_with_a_control_variate_fail_more_often_than_it_says():
    """And it is caught if the reference's own bound is left out: what both have by luck is then in neither."""
    total = math.log(2 * 3 / 0.05)  # half of delta for each statement, and a choice of three coefficients
    betas = (0.3, 0.6, 1.0)
    assert worst_case(np.minimum.reduce([variate_values(40, total, beta) for beta in betas])) <= 0.05
    assert worst_case(variate_values(40, total, 1.0, bounded=False)) > 0.05


def worst_case_of_centres_that_learn(half, peeks, lambda_=0.97, kappa=0.9):
    """How often a source can make the bound fail whose centre is the share of errors so far: over all histories.

    With `peeks` the centre has counted the token itself, as if it were sure of it.
    """
    m, total = 2 * half, math.log(1 / 0.05)
    sums = np.arange(m * GRID + 1)

    def worst(errors, seen, centre, log):
        """By the sum of chances so far, in steps of 1 / GRID."""
        if seen == m:
            value = centre / m + betting_value(log / m, lambda_, total, m)
            return (sums / (GRID * m) > value + 1e-12).astype(float)
        after = []
        for error in (0, 1):
            known = kappa * (0.98 * error + 0.01 if peeks else (errors + 1) / (seen + 2))
            bet = math.log1p(-lambda_ * (error - known))
            after.append(worst(errors + error, seen + 1, centre + known, log + bet))
        best = np.zeros(sums.size)
        for step in range(GRID + 1):
            share, size = step / GRID, sums.size - step
            best[:size] = np.maximum(best[:size], (1 - share) * after[0][step:] + share * after[1][step:])
        return best

    return worst(0, 0, 0.0, 0.0)[0]


def test_no_source_makes_a_bound_fail_whose_centre_learns_and_one_that_peeks_is_caught():
    assert worst_case_of_centres_that_learn(3, peeks=False) <= 0.05
    assert worst_case_of_centres_that_learn(3, peeks=True) > 0.05
