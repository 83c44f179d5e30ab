"""Control variates over several references: by hand, against a chain of two, and at the ends of their range."""

import math

import numpy as np
import pytest
from tokenbounds.bounds.references import bound_with_references, difference_ceiling, difference_losses
from tokenbounds.bounds.smoothing import loss_ceiling, smooth
from tokenbounds.bounds.telescoped import bound_telescoped, link_ceilings, link_losses
from tokenbounds.errors import CertificateError


def test_a_difference_by_hand():
    """A model of 1/2; references of 1/4 and 1/2, in parts of 2 to 1, mixed 1/3; with half of that, 5/12."""
    (found,) = difference_losses([1.0], [[2.0], [1.0]], 0.5, (0.5, 0.25))
    assert found == pytest.approx(-math.log2(5 / 12) - 0.5 * 2 - 0.25 * 1)
    assert difference_ceiling(0.5, (0.5, 0.25), (4.0, 3.0)) == pytest.approx(1 + (4 / 3 - 1) * (0.5 * 4 + 0.25 * 3))


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_one_reference_is_a_chain_of_two(beta):
    rng = np.random.default_rng(0)
    raw, model = rng.exponential(3.0, 500), rng.exponential(2.0, 500)
    alphas, complexities = (0.1, 0.05), (3.0, 20.0)
    links = link_losses([raw, model], alphas, 256, (0.0, beta))
    chain = bound_telescoped(links, link_ceilings(alphas, 256, (0.0, beta)), complexities, betas=(0.0, beta))
    reference = smooth(raw, alphas[0], 256)
    difference = difference_losses(model, [reference], alphas[1], (beta,))
    np.testing.assert_allclose(difference, links[1], atol=1e-12)
    ceiling = loss_ceiling(alphas[0], 256)
    ceilings = (ceiling, difference_ceiling(alphas[1], (beta,), (ceiling,)))
    found = bound_with_references(difference, [reference], ceilings, complexities, betas=(beta,))
    assert found.value == pytest.approx(chain.value, rel=1e-9)
    assert found.empirical == pytest.approx(chain.empirical, rel=1e-12)


def test_no_difference_exceeds_its_ceiling_and_some_reach_it():
    rng = np.random.default_rng(1)
    ceilings = np.array([9.0, 12.0, 7.0])
    for _ in range(50):
        betas = (rng.dirichlet([1, 1, 1]) * rng.uniform(0.05, 0.99)).tolist()
        references = rng.uniform(0, 1, (3, 200)) ** 0.3 * ceilings[:, None]
        references[:, 0] = ceilings  # a token that nobody expected
        model = np.where(rng.random(200) < 0.5, np.inf, rng.exponential(5.0, 200))
        high = difference_ceiling(0.1, betas, ceilings)
        assert difference_losses(model, references, 0.1, betas).max() <= high
    equal = difference_losses([np.inf], [[9.0], [9.0]], 0.1, (0.4, 0.2))
    assert equal[0] == pytest.approx(difference_ceiling(0.1, (0.4, 0.2), (9.0, 9.0)))


def test_two_references_that_err_apart_beat_either():
    """Losses are a sum of two parts, and each reference shares one of them."""
    rng = np.random.default_rng(2)
    parts = rng.exponential(1.5, (2, 20_000))
    references = [smooth(2 * part, 0.01, 256) for part in parts]
    model, ceiling = parts.sum(axis=0) + 1, loss_ceiling(0.01, 256)

    def value(chosen, beta):
        streams, betas = [references[each] for each in chosen], [beta] * len(chosen)
        difference = difference_losses(model, streams, 0.02, betas)
        ceilings = [ceiling] * len(chosen) + [difference_ceiling(0.02, betas, [ceiling] * len(chosen))]
        found = bound_with_references(difference, streams, ceilings, [5.0] * len(chosen) + [200.0], betas=betas)
        assert found.value > found.empirical
        return found.gap

    assert value((0, 1), 0.45) < min(value((0,), beta) for beta in (0.2, 0.45, 0.7, 1.0))


@pytest.mark.parametrize("betas", [(), (0.5,), (0.6, 0.5), (0.5, 0.0), (0.5, -0.1)])
def test_coefficients_that_do_not_fit_are_refused(betas):
    with pytest.raises(CertificateError, match="at most 1 together"):
        difference_losses([1.0], [[1.0], [2.0]], 0.5, betas)
    with pytest.raises(CertificateError, match="one for each reference, and one for the difference"):
        bound_with_references([1.0], [[1.0]], [2.0], [3.0], betas=(0.5,))
