"""Rounded bounds stay bounds."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_certificates import parse_certificate
from report_study import certificate_dict
from tokenbounds.certificates.sentence import state_result
from tokenbounds.rounding import percent_up, round_up


@given(st.floats(-1e12, 1e12), st.integers(0, 9))
def test_never_below_and_less_than_one_unit_above(value, digits):
    shown, exact = Fraction(round_up(value, digits)), Fraction(repr(value))
    assert exact <= shown < exact + Fraction(1, 10**digits)


@given(st.floats(0.0, 1.0))
def test_per_cent_is_never_below(share):
    assert Fraction(percent_up(share, 2)) >= Fraction(repr(share)) * 100


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [("bpd", 3.2101, "3.211 bits"), ("bpd", 3.21, "3.210"), ("top1_error", 0.3, "30.00 %")],
)
def test_the_sentence_rounds_its_bound_up(metric, value, shown):
    certificate = certificate_dict()
    row = {**certificate["rows"][0], "metric": metric, "value": value, "random_guess": 8.0}
    assert shown in state_result(parse_certificate({**certificate, "rows": [row]}))
