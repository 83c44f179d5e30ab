"""What must hold for every data set: which bound is tighter, and in which direction each moves."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inverse_kl import inverse_kl
from tokenbounds.bounds.azuma import bound_azuma
from tokenbounds.bounds.betting import betting_value, bound_betting, bound_errors, lambda_grid, mean_log
from tokenbounds.bounds.freedman import bound_freedman, freedman_value
from tokenbounds.bounds.smoothing import loss_ceiling, smooth
from tokenbounds.bounds.telescoped import bound_telescoped, link_ceilings, link_losses

CEILING = 20.0
losses_lists = st.lists(st.floats(0.0, CEILING), min_size=1, max_size=60)
complexities = st.floats(0.01, 1e4)
quick = settings(max_examples=60, deadline=None)


@quick
@given(losses_lists, complexities)
def test_betting_is_at_most_freedman_at_every_lambda_and_centre(losses, complexity):
    for lambda_ in lambda_grid(8, CEILING):
        f = mean_log(losses, lambda_)[0]
        bet = betting_value(f, lambda_, complexity, len(losses))
        for center in (0.0, 3.0, 19.0):
            rival = freedman_value(f, lambda_, complexity, len(losses), center)
            assert bet <= rival + 1e-9 * (1 + abs(rival))
    assert bound_betting(losses, CEILING, complexity).value <= bound_freedman(losses, CEILING, complexity).value + 1e-9


@quick
@given(losses_lists, complexities, st.floats(0.0, 19.0))
def test_centred_freedman_is_the_textbook_formula(losses, complexity, center):
    lambda_ = 0.6 / CEILING
    kappa = lambda_ / (1 - lambda_ * center)
    centred = np.log1p(-kappa * (np.array(losses) - center)).mean()
    textbook = center + (complexity / len(losses) - centred) / kappa
    f = mean_log(losses, lambda_)[0]
    assert freedman_value(f, lambda_, complexity, len(losses), center) == pytest.approx(textbook, rel=1e-9)


@quick
@given(losses_lists, complexities)
def test_betting_never_falls_below_the_empirical_risk(losses, complexity):
    assert bound_betting(losses, CEILING, complexity).value >= np.mean(losses) - 1e-9


@quick
@given(st.floats(0.0, 1.0), st.floats(1e-9, 5.0))
def test_inverse_kl_is_at_most_pinsker(empirical, budget):
    bound = inverse_kl(empirical, budget)
    rounding = 1e-12 + 4e-15 / math.sqrt(budget)  # of kl, over its slope, which is about √(8 budget)
    assert empirical <= bound <= min(1.0, empirical + math.sqrt(budget / 2)) + rounding


@quick
@given(st.integers(0, 300), complexities)
def test_inverse_kl_is_the_betting_form_with_the_best_lambda(errors, complexity):
    empirical, share = errors / 300, complexity / 300
    fractions = np.concatenate([np.linspace(1e-5, 1 - 1e-9, 4001), 1 - np.geomspace(1e-9, 1e-3, 200)])
    best = (-np.expm1(empirical * np.log1p(-fractions) - share) / fractions).min()
    exact = inverse_kl(empirical, share)
    assert exact <= best + 1e-9
    assert best <= max(exact * 1.02, exact + 1e-4)


bounds = {
    "azuma": lambda losses, total, m: bound_azuma(float(np.mean(losses)), CEILING, total, m),
    "freedman": lambda losses, total, m: bound_freedman(losses, CEILING, total, samples=m),
    "betting": lambda losses, total, m: bound_betting(losses, CEILING, total, samples=m),
    "errors": lambda losses, total, m: bound_errors(float(np.mean(losses)) / CEILING, total, m),
    "telescoped": lambda losses, total, m: bound_telescoped(
        [np.repeat(losses, m // 100), np.repeat(losses, m // 100) - 10.0], [CEILING, 10.0], [total, total]
    ),
}


@pytest.mark.parametrize("name", bounds)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.0, CEILING), min_size=2, max_size=9), st.floats(0.1, 50.0), st.floats(1.01, 9.0))
def test_more_tokens_help_and_more_bits_or_confidence_hurt(name, losses, total, factor):
    bound = bounds[name]
    value = bound(losses, total, 1000).value
    assert bound(losses, total, 4000).value <= value + 1e-9
    assert bound(losses, total * factor, 1000).value >= value - 1e-9  # more bits
    assert bound(losses, total + math.log(factor), 1000).value >= value - 1e-9  # a smaller delta


@quick
@given(losses_lists, st.randoms(use_true_random=False))
def test_order_does_not_matter(losses, random):
    shuffled = list(losses)
    random.shuffle(shuffled)
    assert bound_betting(shuffled, CEILING, 5.0).value == pytest.approx(bound_betting(losses, CEILING, 5.0).value)


@quick
@given(st.lists(st.floats(0.0, 70.0), min_size=1, max_size=50), complexities)
def test_a_trivial_chain_is_the_betting_bound(nll, complexity):
    links = link_losses([nll], [0.05], 1000)
    chain = bound_telescoped(links, link_ceilings([0.05], 1000), [complexity])
    single = bound_betting(smooth(nll, 0.05, 1000), loss_ceiling(0.05, 1000), complexity)
    assert chain.value == single.value
    assert chain.links[0] == single


def test_a_good_cheaper_model_makes_the_chain_tighter_than_any_single_model():
    """The point of telescoping: with a large message the chain wins over every alpha of the single model."""
    rng = np.random.default_rng(11)
    base = rng.gamma(2.0, 3.0, 50_000)
    finer = np.maximum(base - 0.6 + rng.normal(0, 0.7, base.size), 0.0)
    alphas = (0.003, 0.01, 0.03, 0.1, 0.3)
    total, small = 0.1 * base.size, 0.002 * base.size
    single = min(bound_betting(smooth(finer, a, 50_000), loss_ceiling(a, 50_000), total).value for a in alphas)
    chain = min(
        bound_telescoped(link_losses([base, finer], pair, 50_000), link_ceilings(pair, 50_000), [small, total]).value
        for pair in itertools.product(alphas, alphas)
    )
    assert chain < single
