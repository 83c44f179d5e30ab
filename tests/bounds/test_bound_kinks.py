"""Control variates with a kink: what is subtracted of a cheaper model's loss, and what remains."""

import math

import numpy as np
import pytest
from tokenbounds.bounds.kinks import Kink, kinked_ceilings, kinked_links
from tokenbounds.bounds.telescoped import link_losses
from tokenbounds.errors import CertificateError


@pytest.mark.parametrize("kept", [0.0, 2.5, math.inf])
def test_a_kink_takes_all_but_a_few_bits_of_large_losses(kept):
    """Both parts add up to the mixture's loss, and none exceeds its ceiling, which the worst token reaches."""
    rng = np.random.default_rng(3)
    streams = [np.append(rng.exponential(4.0, 500), np.inf) for _ in range(2)]
    alphas, kink = (0.01, 0.1), Kink(0.6, kept)
    part, rest = kinked_links(streams, alphas, 100, kink)
    highs = kinked_ceilings(alphas, 100, kink)
    np.testing.assert_allclose(part + rest, np.add(*link_losses(streams, alphas, 100)), rtol=1e-12)
    assert part.min() >= 0.0 and (part.max(), rest.max()) == pytest.approx(highs)
    largest = math.log2(100 / 0.01)
    assert highs[1] == pytest.approx(math.log2(10) + min(kept, 0.4 * largest))
    if kept == math.inf:  # a control variate as it was
        linear = link_losses(streams, alphas, 100, (1.0, 0.6))
        np.testing.assert_allclose(rest, linear[1], rtol=1e-12)
        np.testing.assert_allclose(part, 0.6 * linear[0], rtol=1e-12)
    with pytest.raises(CertificateError, match="kink"):
        Kink(1.5, kept)


def test_a_weight_by_class_has_the_range_of_its_class():
    rng = np.random.default_rng(4)
    streams = [np.append(rng.exponential(4.0, 500), np.inf) for _ in range(2)]
    classes, weights, kink = np.append(rng.integers(0, 2, 500), 1), np.array([0.5, 0.1]), Kink(0.6, 2.5)
    part, rest = kinked_links(streams, (0.01, weights[classes]), 100, kink)
    ends = [kinked_ceilings((0.01, weight), 100, kink)[1] for weight in weights.tolist()]
    assert rest[classes == 0].max() <= ends[0] < ends[1] == pytest.approx(rest.max())
    # What a class's range is longer than the shortest joins the centre: what is left has the shortest.
    assert (rest - (np.array(ends) - ends[0])[classes]).max() == pytest.approx(ends[0])
    for place in range(2):
        alone = kinked_links(streams, (0.01, float(weights[place])), 100, kink)
        np.testing.assert_array_equal(alone[1][classes == place], rest[classes == place])
        np.testing.assert_array_equal(alone[0], part)
