"""The parts of a gap add up to the bounds that docs/bounds.md works out by hand."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("gap_anatomy", ROOT / "benchmarks" / "gap_anatomy.py")
anatomy = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = anatomy
_SPEC.loader.exec_module(anatomy)


def test_the_parts_are_those_of_the_example(tmp_path):
    azuma, betting, sampled, held_out = anatomy.bars()
    assert (azuma.value, betting.value) == pytest.approx((2.875, 2.245), abs=5e-4)
    for bar in (azuma, betting, sampled, held_out):
        assert min(bar.sizes) >= 0
    assert held_out.sizes[2] == 0 and sampled.sizes[-1] > 0 == betting.sizes[-1]
    assert sampled.value > betting.value > held_out.value
    anatomy.draw([azuma, betting], tmp_path / "figure.svg")
    assert "2.875" in (tmp_path / "figure.svg").read_text()
