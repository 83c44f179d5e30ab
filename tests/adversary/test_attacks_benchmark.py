"""The benchmark that times the attacks runs them, and notices one that is not refused."""

import importlib.util
import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "benchmarks" / "attacks.py"


def load():
    spec = importlib.util.spec_from_file_location("attacks", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["attacks"] = module
    spec.loader.exec_module(module)
    return module


def test_attacks_are_measured_in_another_process():
    name = "tests/adversary/test_parquet_pages.py::test_what_is_no_parquet_is_refused"
    (found,) = load().measure([name])
    assert found["refused"] and found["seconds"] > 0 and found["peak_mib"] > 10


def test_the_table_names_what_was_not_refused():
    rows = [
        {"name": "a", "seconds": 11.0, "cpu_seconds": 1.0, "peak_mib": 5.0, "refused": True},
        {"name": "b", "seconds": 1.0, "cpu_seconds": 1.0, "peak_mib": 2000.0, "refused": False},
    ]
    text = load().table(rows)
    assert text.splitlines()[1].endswith("  a")
    assert "2 attacks, 1 of more than 10 s (0 of the processor), 1 of more than 1024 MiB (largest 2000)" in text
    assert text.endswith("not refused: b")
