"""Confidence bounds on E[A] / E[T]: documents whose lengths go with their losses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.bounds.betting import lambda_fractions
from tokenbounds.bounds.ratio import lower_ratio, upper_ratio
from tokenbounds.bounds.sampling import lower_mean
from tokenbounds.errors import CertificateError

LONGEST = 20


def test_the_bound_is_where_the_average_wealth_reaches_one_over_delta():
    # Every document has 10 of at most 20 tokens and loses nothing: each factor is 1 + b x rho / 2.
    bound = upper_ratio([0.0] * 30, [10] * 30, 0.0, 1.0, LONGEST, 0.05)
    assert np.mean((1 + lambda_fractions(32) * bound / 2) ** 30) == pytest.approx(20.0, rel=1e-6)


def test_lower_mirrors_upper_and_few_documents_say_nothing():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, LONGEST + 1, 200)
    sums = rng.uniform(0, 3, 200) * tokens
    mirrored = upper_ratio(3 * tokens - sums, tokens, 0.0, 3.0, LONGEST, 0.1)
    assert lower_ratio(sums, tokens, 0.0, 3.0, LONGEST, 0.1) == pytest.approx(3 - mirrored)
    assert upper_ratio([1.0], [1], 0.0, 3.0, LONGEST, 0.01) == 3.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, LONGEST), st.floats(0, 1)), min_size=1, max_size=30), st.floats(1e-4, 0.4))
def test_bounds_enclose_the_estimate_and_follow_delta(documents, delta):
    tokens = np.array([length for length, _ in documents])
    sums = tokens * np.array([share for _, share in documents])
    low, high = (bound(sums, tokens, 0.0, 1.0, LONGEST, delta) for bound in (lower_ratio, upper_ratio))
    assert -1e-12 <= low <= sums.sum() / tokens.sum() + 1e-9 and sums.sum() / tokens.sum() <= high + 1e-9 <= 1 + 2e-9
    assert upper_ratio(sums, tokens, 0.0, 1.0, LONGEST, delta / 10) >= high - 1e-9


@pytest.mark.parametrize(
    ("sums", "tokens", "words"),
    [([], [], "no documents"), ([1.0], [LONGEST + 1], "20 was stated as the most"), ([3.0], [2], "outside")],
)
def test_documents_outside_what_was_stated_are_refused(sums, tokens, words):
    with pytest.raises(CertificateError, match=words):
        upper_ratio(sums, tokens, 0.0, 1.0, LONGEST, 0.05)


def missed(bound, replications=400, documents=300, delta=0.1):
    """How often `bound` is above E[A] / E[T], where long documents are harder and rare ones hardest of all."""
    rng = np.random.default_rng(5)
    long = rng.random((replications, documents)) < 0.2
    tokens = np.where(long, LONGEST, 2)
    errors = rng.binomial(tokens, np.where(long, 0.1, 0.6))
    truth = (0.2 * LONGEST * 0.1 + 0.8 * 2 * 0.6) / (0.2 * LONGEST + 0.8 * 2)
    return sum(bound(a, t, delta) > truth for a, t in zip(errors, tokens, strict=True)) / replications


def test_the_ratio_is_covered_and_the_mean_of_documents_means_is_caught():
    assert missed(lambda a, t, delta: lower_ratio(a, t, 0.0, 1.0, LONGEST, delta)) <= 0.1
    assert missed(lambda a, t, delta: lower_mean(a / t, 0.0, 1.0, delta)) > 0.9


def test_tokens_taken_as_independent_are_caught():
    # A document is all right or all wrong: an interval over tokens is too narrow by far, one over documents is not.
    rng = np.random.default_rng(6)
    errors = LONGEST * (rng.random((400, 60)) < 0.3)
    tokens = np.full(60, LONGEST)
    by_token = [lower_mean(np.repeat(row / LONGEST, LONGEST), 0.0, 1.0, 0.1) > 0.3 for row in errors]
    by_document = [lower_ratio(row, tokens, 0.0, 1.0, LONGEST, 0.1) > 0.3 for row in errors]
    assert np.mean(by_document) <= 0.1 < 0.2 < np.mean(by_token)
