"""Seconds and memory of every attack of the tests; those of a file share a process.

    python benchmarks/attacks.py [--match EXPRESSION]

An attack is a test marked `adversary`. What is measured is its call, without imports and fixtures: wall time, time of
the processor, and peak memory: the most that the whole process held during the call (Linux; elsewhere, since its
start), or a process that the call started. Times count on an idle machine; the first attack that needs a compiled
function compiles it. `--match` is pytest's `-k`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS, MEBIBYTES = 10.0, 1024.0  # what an attack may take
_LONGEST = 25  # rows of the table
_OPTIONS = ["-q", "-p", "no:cacheprovider"]
_UNITS = 1 << (20 if sys.platform == "darwin" else 10)  # of ru_maxrss in a MiB
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stopwatch:
    """A plugin of pytest that measures the call of every test, by name."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        children = _children_mebibytes()
        _forget_peak()
        wall, cpu = time.perf_counter(), _processor_seconds()
        try:
            return (yield)
        finally:
            seconds, cpu_seconds = time.perf_counter() - wall, _processor_seconds() - cpu
            started = _children_mebibytes()  # the largest child so far: one of this test, if it grew
            peak = max(_peak_mebibytes(), started if started > children else 0.0)
            self.found[item.nodeid] = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Whether every phase of a test passed (or it was skipped, with a reason)."""
        found = self.found.setdefault(report.nodeid, {})
        found["refused"] = found.get("refused", True) and not report.failed


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _forget_peak() -> None:
    """Count the peak of this process from now on, where the kernel can."""
    with contextlib.suppress(OSError):
        _FORGET.write_text("5")


def _peak_mebibytes() -> float:
    if _STATUS.is_file() and (peak := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())):
        return int(peak[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _UNITS


def _children_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / _UNITS


def run_attacks(names: list[str]) -> dict[str, dict[str, Any]]:
    """Run tests in this process; what each took, and whether the attack failed as it must."""
    stopwatch = Stopwatch()
    pytest.main([*_OPTIONS, *names], plugins=[stopwatch])
    return stopwatch.found


def list_attacks(match: str) -> dict[str, list[str]]:
    """Names of the tests that are attacks, by file."""
    options = ["--collect-only", "-m", "adversary", *(["-k", match] if match else [])]
    command = [sys.executable, "-m", "pytest", *_OPTIONS, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    files: dict[str, list[str]] = defaultdict(list)
    for line in done.stdout.splitlines():
        if "::" in line and not line.startswith(" "):
            files[line.partition("::")[0]].append(line)
    return files


def measure(names: list[str]) -> list[dict[str, Any]]:
    """Run the attacks of one file in a fresh process."""
    command = [sys.executable, __file__, "--these", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        found = {}
    unknown = {"seconds": 0.0, "cpu_seconds": 0.0, "peak_mib": 0.0, "refused": False}
    return [{"name": name, **unknown, **found.get(name, {})} for name in names]


def table(rows: list[dict[str, Any]]) -> str:
    """The attacks that took longest, and how many took more than they may or were not refused."""
    longest = sorted(rows, key=lambda row: row["seconds"], reverse=True)[:_LONGEST]
    lines = [f"{'seconds':>8} {'of CPU':>8} {'peak MiB':>9}  attack"]
    lines += [
        f"{row['seconds']:8.2f} {row['cpu_seconds']:8.2f} {row['peak_mib']:9.0f}  {row['name']}" for row in longest
    ]
    limits = {"seconds": SECONDS, "cpu_seconds": SECONDS, "peak_mib": MEBIBYTES}
    slow, busy, large = (sum(row[key] > most for row in rows) for key, most in limits.items())
    failed = [row["name"] for row in rows if not row["refused"]]
    lines.append(
        f"{len(rows)} attacks, {slow} of more than {SECONDS:g} s ({busy} of the processor), {large} of more than "
        f"{MEBIBYTES:g} MiB (largest {max((row['peak_mib'] for row in rows), default=0.0):.0f}); not refused: "
        f"{', '.join(failed) or 'none'}"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="", help="only attacks whose name this expression matches")
    parser.add_argument("--these", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.these:
        print("\n" + json.dumps(run_attacks(arguments.these)))
        return 0
    rows = []
    for file, names in list_attacks(arguments.match).items():
        rows += measure(names)
        print(f"{len(rows)}: {file}", file=sys.stderr, flush=True)
    print(table(rows))
    return int(not rows or not all(row["refused"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
