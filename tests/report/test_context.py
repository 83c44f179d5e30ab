"""Bounds against the number of tokens that models see: which certificates are compared, and what is shown of them."""

import copy

import pytest
from json_certificates import write_certificate
from report_study import certificate_dict
from tokenbounds.bounds.kinds import BPD
from tokenbounds.report import style
from tokenbounds.report.context import (
    CHAINS,
    TRAINED_WITH_AS_MANY,
    TRAINED_WITH_MORE,
    context_section,
    context_table,
    draw_bound_by_context,
)
from tokenbounds.report.formats import format_value
from tokenbounds.report.records import read_certificates


def write(root, name, model, visible, empirical=3.0, size_bits=80_000):
    raw = copy.deepcopy(certificate_dict(name, size_bits=size_bits, empirical=empirical))
    raw["message"]["header"] = {"coder": "adaptive", "model": model}
    raw["plan"]["visible_tokens"] = visible
    path = root / f"{name}.json"
    write_certificate(path, raw)
    return path


def network(context):
    return {"family": "gpt2", "context": context, "parameterization": {"kind": "dense"}}


def chain(order):
    return {"family": "markov", "order": order}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("context")
    rows = [
        ("chain-0", chain(0), 1, 5.0),
        ("chain-2", chain(2), None, 3.1),
        ("net-1", network(1), 1, 4.1),
        ("net-2", network(2), 2, 3.4),
        ("net-long-2", network(64), 2, 3.6),
        ("net-long", network(64), None, 2.0),
        ("net-huge-2", network(2), 2, 3.3),
    ]
    sizes = {"net-huge-2": 60_000_000}
    return {name: write(root, name, *rest, sizes.get(name, 80_000)) for name, *rest in rows}


def table(paths):
    return context_table(read_certificates(paths.values()))


def test_chains_stand_at_their_order_and_networks_at_what_they_are_shown(paths):
    rows = table(paths).filter(metric="bpd").select("certificate", "series", "seen_tokens").rows()
    assert set(rows) == {
        ("chain-0", CHAINS, 0),
        ("chain-2", CHAINS, 2),
        ("net-1", TRAINED_WITH_AS_MANY, 1),
        ("net-2", TRAINED_WITH_AS_MANY, 2),
        ("net-huge-2", TRAINED_WITH_AS_MANY, 2),
        ("net-long-2", TRAINED_WITH_MORE, 2),
    }


def test_values_are_the_certificates_best(paths):
    by_name = {one.name: one for one in read_certificates(paths.values())}
    for row in table(paths).filter(metric="bpd").iter_rows(named=True):
        assert row["value"] == by_name[row["certificate"]].row(BPD).value


def test_networks_that_all_see_as_much_are_no_series(paths):
    alike = {name: path for name, path in paths.items() if name not in ("net-1",)}
    assert table(alike).height == 0
    assert context_section(alike.values()) == []


def test_the_line_takes_the_best_of_equal_contexts_and_all_are_in_the_table(paths):
    with style.figure_style():
        axes = draw_bound_by_context(table(paths)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]
    rows = table(paths).filter(metric="bpd")
    best = rows.filter(series=TRAINED_WITH_AS_MANY, seen_tokens=2)["value"].min()
    assert best in [value for line in axes.get_lines() for value in line.get_ydata()]
    (section,) = context_section(paths.values())
    for row in rows.iter_rows(named=True):
        assert f"<td>{row['certificate']}</td>" in section.body
        assert format_value(BPD, row["value"]) in section.body
    assert section.body.count('class="vacuous"') == table(paths)["vacuous"].sum() > 0
