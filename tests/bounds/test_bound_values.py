"""Hand-computed cases, and the published regime."""

import math

import numpy as np
import pytest
from inverse_kl import inverse_kl
from tokenbounds.bounds.azuma import bound_azuma, bound_azuma_predictable
from tokenbounds.bounds.betting import (
    betting_value,
    binary_kl,
    bound_betting,
    bound_errors,
    error_lambdas,
    lambda_fractions,
    lambda_grid,
    mean_log,
)
from tokenbounds.bounds.centred import Tangent, bound_centred, bound_centred_errors, error_centres
from tokenbounds.bounds.documents import DocumentSums, bound_documents, bound_documents_betting
from tokenbounds.bounds.freedman import bound_freedman, freedman_value
from tokenbounds.bounds.smoothing import loss_ceiling, loss_floor, loss_range, smooth, smooth_towards
from tokenbounds.bounds.telescoped import bound_telescoped, link_ceilings, link_losses, link_weights
from tokenbounds.errors import CertificateError


def test_smoothing_of_a_certain_an_even_and_an_impossible_token():
    # V = 4, alpha = 1/2: 1/2 p + 1/8
    assert smooth([0.0, 1.0, np.inf], 0.5, 4) == pytest.approx([-math.log2(5 / 8), -math.log2(3 / 8), 3.0])
    assert loss_ceiling(0.5, 4) == 3.0
    assert loss_floor(0.5, 4) == pytest.approx(math.log2(8 / 5))
    assert loss_range(0.5, 4) == pytest.approx(math.log2(5))


def test_range_is_ceiling_minus_floor():
    for alpha, vocabulary in [(1e-6, 2), (0.01, 32000), (0.9, 256)]:
        assert loss_range(alpha, vocabulary) == pytest.approx(
            loss_ceiling(alpha, vocabulary) - loss_floor(alpha, vocabulary)
        )


def test_one_alpha_per_token():
    expected = [smooth(2.0, 0.1, 8), smooth(3.0, 0.2, 8)]
    assert smooth([2.0, 3.0], [0.1, 0.2], 8) == pytest.approx(expected)


def test_smoothing_towards_the_uniform_model_is_smoothing():
    nll = np.array([0.0, 2.5, 9.0, np.inf])
    assert smooth_towards(nll, np.full(4, 3.0), 0.25) + 3.0 == pytest.approx(smooth(nll, 0.25, 8))


def test_azuma_by_hand():
    # sqrt(8 / (2 * 100)) = 0.2
    bound = bound_azuma(3.0, 10.0, 8.0, 100)
    assert bound.value == pytest.approx(5.0)
    assert bound.gap == pytest.approx(2.0)


def test_azuma_in_the_published_regime():
    """7e9 parameters at about 2 bits, 1.2e12 tokens, V = 32000, loss 2.87: about 4.3 bits, with alpha = 0.01."""
    complexity = 8 * 1.9e9 * math.log(2) + math.log(1 / 0.05)
    bound = bound_azuma(2.87, loss_range(0.01, 32000), complexity, 1_200_000_000_000)
    assert bound.value == pytest.approx(4.30, abs=0.01)


def test_azuma_with_predictable_ranges_equals_azuma_if_they_are_constant_and_guessed():
    assert bound_azuma_predictable(1.0, 9.0, [3.0], 5.0, 50).value == pytest.approx(
        bound_azuma(1.0, 3.0, 5.0, 50).value
    )


def test_azuma_with_predictable_ranges_by_hand():
    # guess 2, true root mean square 4: (2 + 16 / 2) / 2 = 5, times sqrt(8 / 200) = 0.2
    bound = bound_azuma_predictable(1.0, 16.0, [2.0], 8.0, 100)
    assert bound.value == pytest.approx(2.0)
    assert bound_azuma_predictable(1.0, 16.0, [2.0, 4.0], 8.0, 100).price_nats == pytest.approx(math.log(2))


def test_betting_and_freedman_by_hand():
    # losses 0 and 1, lambda 1/2: f = ln(1/2) / 2; L / m = ln 2 / 2, so f - L/m = -ln 2 and (1 - 1/2) / (1/2) = 1
    f = mean_log([0.0, 1.0], [0.5])[0]
    assert f == pytest.approx(-0.5 * math.log(2))
    assert betting_value(f, 0.5, math.log(2), 2) == pytest.approx(1.0)
    assert freedman_value(f, 0.5, math.log(2), 2) == pytest.approx(2 * math.log(2))


def test_betting_takes_the_best_lambda_and_pays_for_the_grid():
    losses = [0.0, 1.0, 2.0, 0.5] * 50
    total = 3.0 + math.log(16)
    by_hand = [betting_value(mean_log(losses, each)[0], each, total, 200) for each in lambda_grid(16, 4.0)]
    bound = bound_betting(losses, 4.0, 3.0, lambdas=16)
    assert bound.value == min(by_hand)
    assert bound.price_nats == math.log(16)
    assert bound.complexity_nats == total
    assert bound.lambda_ in lambda_grid(16, 4.0)


def test_a_centre_by_hand():
    # Losses less half their entropies are 0 and 0, so nothing is lost: the average centre 1/2, and (1 - e^(-L/m)) / l.
    grid = lambda_grid(8, 4.0)
    bound = bound_centred([0.0, 1.0] * 50, [0.0, 2.0] * 50, 4.0, 3.0, kappas=(0.5,), lambdas=8)
    assert bound.value == pytest.approx(0.5 - math.expm1(-(3.0 + math.log(8)) / 100) / grid[-1])
    assert (bound.kappa, bound.lambda_, bound.empirical) == (0.5, grid[-1], 0.5)
    both = bound_centred([0.0, 1.0], [0.0, 2.0], 4.0, 3.0, kappas=(0.0, 0.5), lambdas=8, weights=[50, 50])
    assert both.price_nats == math.log(16) and both.value > bound.value and both.kappa == 0.5
    plain = bound_centred([0.0, 1.0] * 50, [0.0, 2.0] * 50, 4.0, 3.0, kappas=(0.0,), lambdas=8)
    assert plain.value == bound_betting([0.0, 1.0] * 50, 4.0, 3.0, lambdas=8).value
    for entropies, kappas in (([-1.0, 0.0], (1.0,)), ([1.0], (1.0,)), ([1.0, 1.0], ()), ([1.0, 1.0], (-0.5,))):
        with pytest.raises(CertificateError):
            bound_centred([0.0, 1.0], entropies, 4.0, 3.0, kappas=kappas)


def test_errors_without_a_centre_are_the_bound_of_errors_and_centres_help_where_errors_are_told():
    for errors, tokens, total in ((300, 1000, 20.0), (0, 500, 5.0), (500, 500, 2.0), (2000, 10**7, 6.0)):
        plain = bound_errors(errors / tokens, total, tokens)
        none, place = bound_centred_errors([errors], [tokens], np.zeros((1, 1)), total)
        assert (none.value, none.empirical, place) == (pytest.approx(plain.value, rel=1e-12), errors / tokens, 0)
    # Two kinds of tokens, of which one is mostly wrong; the entropies know which.
    centres = error_centres([0.0, 4.0], 1, (0.0, 0.5))
    assert centres.tolist() == [[0.0, 0.0], [0.0, 0.75]]
    assert error_centres([3.0, 4.0], 8, (1.0,)).tolist() == [[0.0, 0.5]]
    found, place = bound_centred_errors([10, 4000], [5000, 5000], centres, 50.0)
    alone = bound_errors(4010 / 10_000, 50.0, 10_000)
    assert place == 1 and found.value < alone.value - 0.005
    useless, _ = bound_centred_errors([2000, 2000], [5000, 5000], centres, 50.0)
    assert useless.value <= bound_errors(0.4, 50.0 + math.log(2), 10_000).value


def test_a_tangent_is_never_below_its_bound_and_touches_it():
    rng = np.random.default_rng(5)
    losses, centres = rng.uniform(0.1, 5.0, 200), rng.uniform(0.0, 2.0, 200)
    lambda_, total, m = 0.15, 300.0, 5000
    logs = np.log1p(-lambda_ * (losses - centres))
    exact = centres.mean() + betting_value(logs.mean(), lambda_, total, m)
    for off in (-0.3, 0.0, 0.2):
        tangent = Tangent.of_betting(logs.mean() + off, lambda_, total, m)
        value = tangent.intercept + np.mean(centres - tangent.slope * logs)
        assert value == pytest.approx(exact, rel=1e-12) if off == 0 else value > exact
        low, high = tangent.interval(0.1, 5.0, 2.0)
        grid = [
            c - tangent.slope * np.log1p(-lambda_ * (np.array([0.1, 2.0, 5.0]) - c)) for c in np.linspace(0, 2, 4001)
        ]
        assert low == pytest.approx(np.min(grid), abs=1e-6) and high == pytest.approx(np.max(grid), abs=1e-12)
    freedman = Tangent.of_freedman(lambda_, total, m)
    value = centres.mean() + freedman_value(logs.mean(), lambda_, total, m)
    assert freedman.intercept + np.mean(centres - freedman.slope * logs) == pytest.approx(value, rel=1e-12)


def test_weights_are_counts():
    counted = bound_betting([0.0, 1.0, 3.0], 4.0, 3.0, weights=[5, 3, 2])
    listed = bound_betting([0.0] * 5 + [1.0] * 3 + [3.0] * 2, 4.0, 3.0)
    assert counted.value == pytest.approx(listed.value)
    assert counted.samples == listed.samples == 10


def test_the_grid_depends_on_its_size_only_and_lies_below_the_ceiling():
    grid = lambda_fractions(32)
    assert grid.shape == (32,)
    assert np.all((grid > 0) & (grid < 1)) and np.all(np.diff(grid) > 0)
    assert lambda_grid(32, 5.0) == pytest.approx(grid / 5)


def test_inverse_kl_by_hand():
    assert inverse_kl(0.0, math.log(2)) == pytest.approx(0.5)  # -ln(1 - p) = ln 2
    assert inverse_kl(1.0, 0.1) == 1.0
    assert inverse_kl(0.3, 0.0) == pytest.approx(0.3)
    assert binary_kl(0.5, 0.25) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert inverse_kl(0.5, binary_kl(0.5, 0.75)) == pytest.approx(0.75)


def test_errors_by_hand():
    """m = 2, L = ln 4, no error: the average of (1 - b p)^-2 over the bets b is 4 at the value."""
    bets = error_lambdas(2)
    assert bets[0] == pytest.approx(2**-0.5) and bets[-1] == 1.0
    value = bound_errors(0.0, math.log(4), 2).value
    assert np.mean((1 - bets * value) ** -2) == pytest.approx(4.0)


@pytest.mark.parametrize(("samples", "total", "most"), [(31 * 10**6, 3.0, 3.0), (10**12, 3.0, 3.0), (10**12, 1e6, 9.0)])
def test_errors_cost_a_few_nats_at_any_size(samples, total, most):
    bound = bound_errors(0.3, total, samples)
    assert 0 < bound.price_nats < most
    assert bound.value == pytest.approx(inverse_kl(0.3, (total + bound.price_nats) / samples), rel=1e-9)


def test_if_all_are_errors_nothing_is_refuted():
    assert bound_errors(1.0, 5.0, 100).value == 1.0


def test_averaged_bets_are_no_worse_than_the_best_of_them():
    for share in (0.0, 1e-4, 0.3, 0.97):
        bets = error_lambdas(10**5)[:-1]
        logs = share * np.log1p(-bets)
        best = (-np.expm1(logs - (50.0 + math.log(bets.size + 1)) / 10**5) / bets).min()
        assert bound_errors(share, 50.0, 10**5).value <= best * (1 + 1e-9)


def test_documents_by_hand():
    sums = DocumentSums(4)
    sums.add([0, 0, 1], [1.0, 2.0, 4.0])
    sums.add([3, 1], [2.5, 6.0])
    assert sums.means() == pytest.approx([1.5, 5.0, 2.5])  # document 2 is empty
    bound = bound_documents(sums.means(), 10.0, 6.0)
    assert bound.samples == 3
    assert bound.value == pytest.approx(3.0 + 10.0)
    assert bound_documents_betting([1.0] * 400, 10.0, 6.0).value < bound_documents([1.0] * 400, 10.0, 6.0).value


def test_links_telescope_and_stay_below_their_ceilings():
    small = np.array([1.0, 5.0, np.inf, 0.0])
    large = np.array([0.5, np.inf, np.inf, 0.0])
    links = link_losses([small, large], [0.1, 0.2], 16)
    base = -np.log2(0.9 * np.exp2(-small) + 0.1 / 16)
    last = -np.log2(0.8 * np.exp2(-large) + 0.2 * np.exp2(-base))
    assert links[0] == pytest.approx(base)
    assert links[0] + links[1] == pytest.approx(last)
    ceilings = link_ceilings([0.1, 0.2], 16)
    assert ceilings == pytest.approx([math.log2(160), math.log2(5)])
    assert all(link.max() <= ceiling + 1e-12 for link, ceiling in zip(links, ceilings, strict=True))


def test_telescoped_adds_up_its_links():
    rng = np.random.default_rng(3)
    small = rng.exponential(4.0, 3000)
    links = link_losses([small, small * 0.8], [0.05, 0.1], 64)
    bound = bound_telescoped(links, link_ceilings([0.05, 0.1], 64), [20.0, 90.0])
    assert bound.value == pytest.approx(sum(link.value for link in bound.links))
    assert bound.empirical == pytest.approx(float(np.sum(links) / 3000))


def test_control_variates_by_hand():
    """Half of the base's loss subtracted: l_2 = s_2 + s_1 / 2, and s_2 may reach half of the base's ceiling more."""
    small, large = np.array([1.0, 6.0, 2.0, 0.0]), np.array([0.5, 5.0, np.inf, 0.0])
    betas, ceilings = [0.0, 0.5], link_ceilings([0.1, 0.2], 16, [0.0, 0.5])
    links = link_losses([small, large], [0.1, 0.2], 16, betas)
    whole = link_losses([small, large], [0.1, 0.2], 16)
    assert links[0] == pytest.approx(whole[0])
    assert links[1] == pytest.approx(whole[1] + 0.5 * whole[0])
    assert ceilings == pytest.approx([math.log2(160), math.log2(5) + 0.5 * math.log2(160)])
    bound = bound_telescoped(links, ceilings, [1.0, 2.0], betas=betas)
    first, second = (
        bound_betting(link, ceiling, total).value
        for link, ceiling, total in zip(links, ceilings, [1.0, 2.0], strict=True)
    )
    assert bound.value == pytest.approx(second + 0.5 * first)
    assert bound.empirical == pytest.approx(np.mean(whole[0] + whole[1]))
    chain = link_losses([small, large, large], [0.1, 0.2, 0.3], 16, [0.0, 0.5, 0.25])
    assert chain[2] + 0.25 * (chain[1] + 0.5 * chain[0]) == pytest.approx(
        np.sum(link_losses([small, large, large], [0.1, 0.2, 0.3], 16), axis=0)
    )
    assert link_weights([0.0, 0.5, 0.25]) == [0.125, 0.25, 1.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: bound_azuma(1.0, 1.0, 1.0, 0),
        lambda: bound_azuma(1.0, 0.0, 1.0, 10),
        lambda: bound_azuma(1.0, 1.0, math.nan, 10),
        lambda: bound_azuma_predictable(1.0, 1.0, [], 1.0, 10),
        lambda: bound_betting([5.0], 4.0, 1.0),
        lambda: bound_betting([], 4.0, 1.0),
        lambda: bound_betting([np.nan], 4.0, 1.0),
        lambda: bound_freedman([5.0], 4.0, 1.0),
        lambda: bound_betting([1.0], 4.0, 1.0, lambdas=0),
        lambda: binary_kl(1.5, 0.5),
        lambda: loss_range(0.0, 10),
        lambda: link_losses([[1.0]], [0.1, 0.2], 4),
        lambda: link_losses([[1.0], [1.0]], [0.1, 0.2], 4, [0.0, 1.5]),
        lambda: link_ceilings([0.1, 0.2], 4, [0.0]),
        lambda: bound_documents([], 1.0, 1.0),
        lambda: bound_documents([0.0, 3.0], 1.0, 1.0),
        lambda: DocumentSums(2).add([2], [1.0]),
    ],
)
def test_impossible_arguments_are_refused(call):
    with pytest.raises(CertificateError):
        call()
