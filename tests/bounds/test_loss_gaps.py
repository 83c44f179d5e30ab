"""The table of gaps: its logic on invented losses, and the documents against their data."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenbounds.bounds.betting import betting_value, lambda_grid
from tokenbounds.bounds.smoothing import smooth

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("loss_gaps", ROOT / "benchmarks" / "loss_gaps.py")
loss_gaps = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = loss_gaps
_SPEC.loader.exec_module(loss_gaps)
loss_gaps_scores = sys.modules["_loss_gaps_scores"]

V = 5000
LIMITS = {0.01: 0.35, 0.03: 0.36, 0.1: 0.37, 0.3: 0.38}  # without an online reference


def invented(size=1500):
    """A cheap model, and one that is better where both are unsure, with a few losses of its own."""
    rng = np.random.default_rng(0)
    cheap = rng.gamma(1.0, 5.0, size)
    return np.maximum(0.5 * cheap + rng.gamma(0.5, 1.5, size) - 0.4, 0.0), cheap


@pytest.fixture(scope="module")
def rows():
    return loss_gaps.tabulate(*invented(), V, prices=(0.01, 0.3))


def of(rows, bound, price):
    (row,) = [row for row in rows if (row["bound"], row["price"]) == (bound, price)]
    return row


def test_the_betting_row_by_hand(rows):
    losses = invented()[0]
    total = 0.3 * loss_gaps.TOKENS + math.log(len(loss_gaps.ALPHAS) * 32 / 0.05)
    found = []
    for alpha in loss_gaps.ALPHAS:
        values = smooth(losses, alpha, V)
        for lambda_ in lambda_grid(32, math.log2(V / alpha)):
            log = float(np.log1p(-lambda_ * values).mean())
            found.append((betting_value(log, lambda_, total, loss_gaps.TOKENS), values.mean()))
    value, empirical = min(found)
    row = of(rows, "betting", 0.3)
    assert (row["value"], row["empirical"]) == pytest.approx((value, empirical), rel=1e-8)
    assert row["share"] == pytest.approx((value - empirical) / of(rows, "azuma", 0.3)["gap"], rel=1e-7)


def test_the_order_of_the_bounds(rows):
    for price in (0.01, 0.3):
        value = {bound: of(rows, bound, price)["value"] for bound in (*loss_gaps.SINGLE, *loss_gaps.CHAINS)}
        assert value["betting"] <= value["freedman"]
        assert value["control variates"] <= value["telescoped"] + 1e-3
        assert value["control variates"] <= value["betting"] + 1e-2
    assert of(rows, "control variates", 0.3)["value"] < of(rows, "betting", 0.3)["value"] - 0.2
    assert of(rows, "azuma", 0.01)["share"] == 1.0


def test_centres_help_where_the_entropy_knows_the_loss():
    losses, base = (stream[:800] for stream in invented())
    entropies = [np.rint(8 * stream) / 8 for stream in (0.9 * base, 0.6 * losses)]
    online = np.maximum(base + np.random.default_rng(1).normal(0.0, 1.0, base.size), 0.0)
    found = loss_gaps.tabulate(losses, base, V, prices=(0.01,), entropies=entropies, online=online)
    gap = {row["bound"]: row["gap"] for row in found}
    assert gap["centres"] < gap["betting"] - 0.1
    assert gap["centres, control variates"] < min(gap["centres"], gap["control variates"]) - 0.02
    assert gap["with an online reference"] < gap["centres, control variates"] - 0.02
    plain = loss_gaps.centred_row(losses, 0 * losses, 0.01, V)
    assert plain["value"] == pytest.approx(of(found, "betting", 0.01)["value"], abs=1e-6)
    assert "centres, control variates" in loss_gaps.render(found, (0.01,))


def test_weights_by_class_are_kinks_where_there_is_one_class_and_better_where_they_know_something():
    losses, base = (stream[:800] for stream in invented())
    entropies = [0.9 * base, 0.6 * losses]
    plain = loss_gaps.kinked_row((base, losses), 0.1, V, entropies)
    same = loss_gaps.kinked_row((base, losses), 0.1, V, entropies, np.zeros(800), start=plain)
    # Classes without tokens shorten no range: a weight that no token has is no way around it.
    assert same["value"] <= plain["value"] + 1e-6 and same["alphas"][1] in loss_gaps.CLASS_ALPHAS
    known = np.maximum(base - losses, 0.0)  # more than anyone knows beforehand
    knowing = loss_gaps.kinked_row((base, losses), 0.1, V, entropies, known, start=plain)
    assert knowing["value"] < same["value"] - 0.02 and len(set(knowing["alphas"][1:])) > 1


def test_divergences_of_predictions():
    rng = np.random.default_rng(2)
    states, others = rng.normal(size=(2, 70, 4)).astype(np.float32)
    embedding = rng.normal(size=(9, 4)).astype(np.float32)
    own, other = (np.exp(each @ embedding.T).astype(np.float64) for each in (states, others))
    own, other = (each / each.sum(axis=1, keepdims=True) for each in (own, other))
    found = loss_gaps_scores.divergences(states, others, embedding)
    np.testing.assert_allclose(found, np.sum(own * np.log2(own / other), axis=1), rtol=1e-5)


def test_the_cheap_model_is_paid_for(monkeypatch):
    streams = [stream[:400] for stream in invented()]
    paid = loss_gaps.chain_row("telescoped", streams[::-1], 0.3, V)["value"]
    monkeypatch.setattr(loss_gaps, "BASE_SHARE", 0.2)
    assert loss_gaps.chain_row("telescoped", streams[::-1], 0.3, V)["value"] > paid + 0.05


def test_the_documented_table_is_the_data_and_keeps_its_promises():
    page = (ROOT / "docs/bounds.md").read_text(encoding="utf-8")
    data = json.loads((ROOT / "docs/figures/loss_gaps.json").read_text(encoding="utf-8"))
    assert loss_gaps.render(data["rows"]) in page
    assert f"{data['measured']['tokens']:,} tokens" in page
    rows = data["rows"]
    for price, limit in LIMITS.items():
        own = [row for row in rows if row["price"] == price and row["bound"] != loss_gaps.ONLINE_CHAIN]
        assert min(row["share"] for row in own) <= limit
        assert of(rows, loss_gaps.ONLINE_CHAIN, price)["share"] <= 0.33
        values = [of(rows, bound, price)["value"] for bound in (loss_gaps.KINKED_CHAIN, loss_gaps.BY_DIVERGENCE)]
        assert values[1] < values[0]
    for price in (each for each in loss_gaps.CURVE if each >= 0.08):
        single = min(of(rows, bound, price)["value"] for bound in loss_gaps.SINGLE)
        assert of(rows, "telescoped", price)["value"] < single


def test_the_figure_is_drawn(rows, tmp_path):
    loss_gaps.draw(rows, tmp_path / "gaps.svg")
    assert b"control variates" in (tmp_path / "gaps.svg").read_bytes()
