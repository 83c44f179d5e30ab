"""Mutated messages decode or end in MessageError; the long run is benchmarks/fuzz_messages.py."""

import importlib.util
from pathlib import Path

FUZZER = Path(__file__).parents[2] / "benchmarks" / "fuzz_messages.py"


def test_two_thousand_mutants_give_models_or_the_one_error():
    spec = importlib.util.spec_from_file_location("fuzz_messages", FUZZER)
    assert spec is not None and spec.loader is not None
    fuzz_messages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz_messages)
    outcomes, _ = fuzz_messages.fuzz(2000, seed=1)
    assert sum(outcomes.values()) == 2000
    assert outcomes["refused"] > 1000
    assert outcomes["decoded"] > 0
