"""Seconds and memory of every attack of the tests, each in a process of its own.

    python benchmarks/attacks.py [--match EXPRESSION]

An attack is a test marked `adversary`. What is measured is its call, without imports and fixtures: wall time, time of
the processor, and the peak memory of the whole process and of those that it starts. Times count on an idle machine;
the first attack that needs a compiled function compiles it. `--match` is pytest's `-k`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS, MEBIBYTES = 10.0, 1024.0  # what an attack may take
_LONGEST = 25  # rows of the table
_OPTIONS = ["-q", "-p", "no:cacheprovider"]


class Stopwatch:
    """A plugin of pytest that measures the call of the tests that it runs; the last one's counts."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), _processor_seconds()
        try:
            return (yield)
        finally:
            seconds, cpu_seconds = time.perf_counter() - wall, _processor_seconds() - cpu
            self.found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": _peak_mebibytes()}


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak_mebibytes() -> float:
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def run_attack(name: str) -> dict[str, Any]:
    """Run one test in this process; what it took, and whether the attack failed as it must."""
    stopwatch = Stopwatch()
    status = pytest.main([*_OPTIONS, name], plugins=[stopwatch])
    return {**stopwatch.found, "refused": status == 0}


def list_attacks(match: str) -> list[str]:
    """Names of the tests that are attacks."""
    options = ["--collect-only", "-m", "adversary", *(["-k", match] if match else [])]
    command = [sys.executable, "-m", "pytest", *_OPTIONS, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if "::" in line and not line.startswith(" ")]


def measure(name: str) -> dict[str, Any]:
    """Run one attack in a fresh process."""
    command = [sys.executable, __file__, "--one", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        found = {"refused": False}
    return {"name": name, "seconds": 0.0, "cpu_seconds": 0.0, "peak_mib": 0.0, **found}


def table(rows: list[dict[str, Any]]) -> str:
    """The attacks that took longest, and how many took more than they may or were not refused."""
    longest = sorted(rows, key=lambda row: row["seconds"], reverse=True)[:_LONGEST]
    lines = [f"{'seconds':>8} {'of CPU':>8} {'peak MiB':>9}  attack"]
    lines += [
        f"{row['seconds']:8.2f} {row['cpu_seconds']:8.2f} {row['peak_mib']:9.0f}  {row['name']}" for row in longest
    ]
    slow, large = (
        sum(row[key] > most for row in rows) for key, most in (("seconds", SECONDS), ("peak_mib", MEBIBYTES))
    )
    failed = [row["name"] for row in rows if not row["refused"]]
    lines.append(
        f"{len(rows)} attacks, {slow} of more than {SECONDS:g} s, {large} of more than {MEBIBYTES:g} MiB; "
        f"not refused: {', '.join(failed) or 'none'}"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="", help="only attacks whose name this expression matches")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print("\n" + json.dumps(run_attack(arguments.one)))
        return 0
    rows = []
    for name in list_attacks(arguments.match):
        rows.append(measure(name))
        print(f"{len(rows)}: {rows[-1]['seconds']:.2f} s  {name}", file=sys.stderr, flush=True)
    print(table(rows))
    return int(not rows or not all(row["refused"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
