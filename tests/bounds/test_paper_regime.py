"""The published regime: Azuma's number from the paper's summary, and what must hold for any spread of losses."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.errors import ScoreError

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("paper_regime", ROOT / "benchmarks" / "paper_regime.py")
paper_regime = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = paper_regime
_SPEC.loader.exec_module(paper_regime)


def invented(size=3000):
    rng = np.random.default_rng(0)
    base = rng.gamma(1.2, 4.0, size)
    return np.maximum(0.6 * base + rng.normal(0, 0.6, size), 0.0), base


def test_azuma_from_the_published_summary():
    regime = paper_regime.Regime()
    assert regime.complexity_nats() / regime.tokens == pytest.approx(0.00878, rel=1e-3)
    assert paper_regime.published_azuma(regime) == pytest.approx(4.30, abs=0.005)


def test_losses_are_scaled_to_the_published_average():
    losses, _ = invented()
    factor = paper_regime.rescale(losses, paper_regime.Regime())
    assert smooth(factor * losses, 0.01, 32_000).mean() == pytest.approx(2.87, abs=1e-9)


def test_the_order_of_the_bounds():
    losses, base = invented()
    rows = paper_regime.tabulate(losses, base, paper_regime.Regime(alphas=(0.01, 0.1)))
    value = {(row["bound"], row.get("base_share")): row["value"] for row in rows}
    assert value["azuma", None] <= value["azuma, published", None]
    assert value["betting", None] <= value["freedman", None] < value["azuma", None]
    chains = [value["telescoped", share] for share in paper_regime.BASE_SHARES]
    assert chains == sorted(chains) and chains[0] < value["betting", None]


def test_the_documented_table_is_the_data():
    data = json.loads((ROOT / "docs/figures/paper_regime.json").read_text())
    assert data["rows"][0]["value"] == pytest.approx(paper_regime.published_azuma(paper_regime.Regime()), abs=1e-9)
    assert paper_regime.render(data["rows"]) in (ROOT / "docs/bounds.md").read_text(encoding="utf-8")
    assert f"{data['measured']['tokens']:,} tokens" in (ROOT / "docs/bounds.md").read_text(encoding="utf-8")


def test_scores_of_other_tokens_are_refused(tmp_path):
    table = {"document": [0, 0], "position": [0, 1], "nll_bits": pa.array([1.0, 2.0], pa.float32())}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    pq.write_table(pa.table({**table, "position": [0, 2]}), tmp_path / "b.parquet")
    losses, base = paper_regime.read_aligned([tmp_path / "a.parquet"], [tmp_path / "a.parquet"])
    assert list(losses) == list(base) == [1.0, 2.0]
    assert paper_regime.read_aligned([tmp_path / "a.parquet"], [])[1] is None
    with pytest.raises(ScoreError, match="same tokens"):
        paper_regime.read_aligned([tmp_path / "a.parquet"], [tmp_path / "b.parquet"])
