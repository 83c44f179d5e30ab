"""Validity by simulation (the full version, with its figure, is benchmarks/bound_coverage.py).

Each bound must fail in at most a share delta of the replications, against an adversary; each broken variant must fail
more often than that.
"""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.bounds.sampling import upper_mean

_PATH = Path(__file__).parents[2] / "benchmarks" / "bound_coverage.py"
_SPEC = importlib.util.spec_from_file_location("coverage_benchmark", _PATH)
coverage = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = coverage
_SPEC.loader.exec_module(coverage)

REPLICATIONS = 1000
BROKEN_REPLICATIONS = 300
SLOW_REPLICATIONS = 200  # of what takes several times as long as the others
SLOW_BROKEN_REPLICATIONS = 100
NAMES = coverage.NAMES
BROKEN = [(name, fault) for name in NAMES for fault in coverage.faults_of(name)]


ROWS = {
    BoundKind.AZUMA: ("azuma", "azuma_predictable", "azuma_sampled", "azuma_by_token_sampled", "azuma_stopped"),
    BoundKind.FREEDMAN: ("freedman", "freedman_centred", "freedman_sampled"),
    BoundKind.BETTING: ("betting", "betting_by_token", "betting_centred", "betting_crossed", "betting_sampled"),
    BoundKind.TELESCOPED: ("telescoped", "control_variate", "chain", "chain_sampled"),
    BoundKind.MIXTURE: ("mixture", "mixture_sampled"),
    BoundKind.CONTROL_VARIATES: ("control_variates", "variates_searched", "variates_sampled"),
    BoundKind.DOCUMENTS: ("documents",),
    BoundKind.DOCUMENTS_BETTING: ("documents_betting",),
    BoundKind.SEQUENCES: ("documents",),  # the same functions, of blocks
    BoundKind.SEQUENCES_BETTING: ("documents_betting",),
}


def test_every_kind_of_row_is_simulated_and_has_variants_that_must_be_caught():
    assert set(ROWS) == set(BoundKind)
    for names in ROWS.values():
        assert set(names) <= set(NAMES) and all(coverage.faults_of(name) for name in names)
    table = json.loads((_PATH.parents[1] / "docs/figures/coverage.json").read_text(encoding="utf-8"))
    counted = [(row["bound"], row["variant"]) for row in table]
    assert counted == [(name, variant) for name in NAMES for variant in ("sound", *coverage.faults_of(name))]
    for row in table:
        most = coverage.allowed(row["replications"])
        assert (row["violations"] <= most) == (row["variant"] == "sound"), row


@pytest.mark.parametrize("name", NAMES)
def test_a_bound_fails_at_most_as_often_as_it_says(name):
    replications = SLOW_REPLICATIONS if name in coverage.SLOW else REPLICATIONS
    size = max(replications, coverage.least_replications(name))
    assert coverage.violations(name, coverage.Fault(), size) <= coverage.allowed(size)


@pytest.mark.parametrize(("name", "fault"), BROKEN)
def test_a_broken_bound_is_caught(name, fault):
    broken = coverage.faults_of(name)[fault]
    replications = SLOW_BROKEN_REPLICATIONS if name in coverage.SLOW else BROKEN_REPLICATIONS
    size = max(replications, coverage.least_replications(name))
    assert coverage.violations(name, broken, size) > coverage.allowed(size)


def _missed(bound, replications=2000, draws=40, rare=0.02, delta=0.1):
    """How often `bound` lies below the mean of a variable that is rarely 1 and otherwise 0.2 or 0.3."""
    rng = np.random.default_rng(9)
    values = np.where(rng.random((replications, draws)) < rare, 1.0, rng.choice([0.2, 0.3], (replications, draws)))
    truth = rare + (1 - rare) * 0.25
    return sum(bound(row, delta) < truth for row in values)


def test_the_sampling_bound_covers_rare_large_blocks():
    assert _missed(lambda row, delta: upper_mean(row, 0.0, 1.0, delta)) <= coverage.allowed(2000, 0.1)


def test_a_normal_approximation_is_caught():
    def approximate(row, delta):
        return row.mean() + math.sqrt(2 * row.var(ddof=1) * math.log(1 / delta) / row.size)

    assert _missed(approximate) > coverage.allowed(2000, 0.1)
