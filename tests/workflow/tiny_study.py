"""Makes and runs the tiny study; shared by the tests of the workflow and of the SLURM profile."""

from __future__ import annotations

import atexit
import copy
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from warm_snakemake import WarmSnakemake

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "workflow" / "tiny.yaml"
_RULE = re.compile(r"^(?:local)?rule (\w+):$")
_WILDCARDS = re.compile(r"^    wildcards: (.*)$")


def make_corpora(folder: Path) -> None:
    """Write two small corpora: sentences of a few words, and sums."""
    draw = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "more", "bird", "in", "the", "old", "tree"]
    for name, sentence in (
        ("letters", lambda: " ".join(draw.choices(words, k=9)) + ".\n"),
        ("numbers", lambda: f"{(a := draw.randrange(100))}+{(b := draw.randrange(100))}={a + b}\n"),
    ):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            (folder / name / f"{number:02d}.txt").write_text("".join(sentence() for _ in range(10 + 4 * number)))


def tiny_config() -> dict[str, Any]:
    """The tiny study as a fresh dictionary."""
    return copy.deepcopy(yaml.safe_load(TINY.read_text()))


def environment() -> dict[str, str]:
    """This process's environment, with one thread per library and no colours."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    return {**os.environ, **limits, "PATH": path, "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}


# What `snakemake ARGUMENTS` does, called in a folder.
snakemake = WarmSnakemake(environment())
atexit.register(snakemake.close)


@dataclass(frozen=True)
class Run:
    """A folder in which Snakemake runs a study."""

    folder: Path

    def command(self, *arguments: str, config: Path = TINY) -> list[str]:
        """Snakemake's command line for this folder."""
        snakemake = [sys.executable, "-m", "snakemake", "--directory", str(self.folder)]
        return [*snakemake, "--configfile", str(config), "--cores", "2", *arguments]

    def snakemake(self, *arguments: str, config: Path = TINY) -> subprocess.CompletedProcess[str]:
        """Run Snakemake and return what came of it, in a process that has imported it and what its jobs import."""
        return snakemake(ROOT, self.command(*arguments, config=config)[3:])

    def write_config(self, config: dict[str, Any]) -> Path:
        """Write a configuration next to the results."""
        path = self.folder / "changed.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    def planned_jobs(self, config: dict[str, Any]) -> set[str]:
        """Jobs that a dry run of a configuration lists, as `rule` or `rule wildcard=value …`."""
        done = self.snakemake("--dry-run", config=self.write_config(config))
        assert done.returncode == 0, done.stderr
        return parse_jobs(done.stdout + done.stderr)


def parse_jobs(output: str) -> set[str]:
    """Jobs in Snakemake's output, without the target rule."""
    jobs: list[str] = []
    for line in output.splitlines():
        if match := _RULE.match(line):
            jobs.append(match.group(1))
        elif jobs and (match := _WILDCARDS.match(line)):
            jobs[-1] += " " + match.group(1).replace(",", "")
    return set(jobs) - {"all"}
