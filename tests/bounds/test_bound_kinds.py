import math

import pytest
from tokenbounds.bounds.kinds import BPD, BoundKind, Metric


def test_a_metric_is_parsed_once_and_is_its_own_name():
    assert (BPD, BPD.k, BPD.label, BPD.is_error) == ("bpd", None, "BPD", False)
    top = Metric("top10_error")
    assert (top, top.k, top.label, top.is_error) == (Metric.top(10), 10, "top-10 error", True)


@pytest.mark.parametrize("name", ["", "bits", "top_error", "top0_error", "top-1_error", "top1_errors", "Top1_error"])
def test_names_that_are_no_metric_are_refused(name):
    with pytest.raises(ValueError, match="is not a metric"):
        Metric(name)


def test_guessing_among_all_tokens():
    assert BPD.random_guess(256) == 8.0
    assert Metric.top(3).random_guess(29) == 1.0 - 3 / 29
    assert BPD.random_guess(3) == math.log2(3)


def test_metrics_are_stated_in_order_and_never_where_guessing_cannot_miss():
    assert Metric.stated((100, 1, 10, 1), 100) == ("bpd", "top1_error", "top10_error")
    assert sorted([Metric.top(10), Metric.top(2), BPD], key=lambda metric: metric.order) == [
        BPD,
        "top2_error",
        "top10_error",
    ]


def test_what_each_kind_of_bound_speaks_of():
    single = {kind for kind in BoundKind if kind.is_single}
    chains = {kind for kind in BoundKind if kind.uses_chain}
    assert {kind for kind in chains if kind.mixes} == {"telescoped", "mixture"}
    units = {kind for kind in BoundKind if not kind.by_token}
    assert single == {"azuma", "freedman", "betting"} and chains == {"telescoped", "mixture", "control_variates"}
    assert units == {"documents", "documents_betting", "sequences", "sequences_betting"}
    assert single | chains | units == set(BoundKind)
    assert {kind for kind in BoundKind if kind.fits_subsets} == single | {"documents", "documents_betting"}
    assert {kind for kind in BoundKind if not kind.uses_lambda} == {"azuma", "documents", "sequences"}
    assert {kind.unit for kind in BoundKind} == {None, "documents", "sequences"}
    assert {kind for kind in BoundKind if not kind.allows(Metric.top(1))} == chains
