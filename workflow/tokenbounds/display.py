"""What people see of a run: its stages with bars, the last message of each running job, and failed jobs' logs.

Snakemake tells a logger plugin what happens (`snakemake_logger_plugin_tokenbounds`), and this turns it into a picture
on a terminal, or into one line per minute elsewhere. Jobs write how far they are to their own logs
(`tokenbounds.progress`), so that the picture is the same whether they run here or on a cluster.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tokenbounds import errors
from tokenbounds.progress import clock, last_words
from tokenbounds.terminal import SafeConsole

SECONDS_BETWEEN_LINES = 60.0
_LINES_OF_A_FAILED_LOG = 12

# Stages in the order of the data, with the rules whose jobs they count. Rules not named here count as "other".
STAGES: Mapping[str, tuple[str, ...]] = {
    "corpora": ("tokenize_corpus",),
    "models": ("train_model", "finetune_model", "import_model", "fit_markov", "name_online"),
    "messages": ("calibrate_model", "encode_model"),
    "scores": ("plan_scoring", "score_shard"),
    "certificates": ("certify_bound",),
    "tasks": ("run_task", "draw_questions", "measure_task", "tabulate_antibodies", "tabulate_tasks"),
    "report": ("tabulate_certificates", "draw_figures", "write_report", "sum_published"),
}
_STAGE_OF = {rule: stage for stage, rules in STAGES.items() for rule in rules}


def plain_error(text: str) -> str:
    """What Snakemake says of an error; of one that a user can correct, not where in the workflow it was raised."""
    first, _, rest = text.partition("\n")
    raised = re.match(r"(\w+) in file ", first)
    if raised is None or not hasattr(errors, raised[1]):
        return text
    return "error: " + "\n".join(line for line in rest.splitlines() if not line.startswith('  File "'))


@dataclass
class RunningJob:
    """One job that was started and has not ended."""

    rule: str
    name: str
    log: Path | None
    since: float


@dataclass
class RunState:
    """How far a run is.

    Attributes
    ----------
    totals, done
        Number of jobs by stage, of this run.
    running
        Jobs by Snakemake's number.
    began
        Seconds of `time.monotonic` when the run began.
    """

    totals: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    running: dict[int, RunningJob] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    _stage_of_job: dict[int, str] = field(default_factory=dict)

    def plan(self, jobs_of_rule: Mapping[str, int]) -> None:
        """Take the number of jobs of each rule; the target rule `all` and the sum `total` are not counted."""
        self.totals = dict.fromkeys([*STAGES, "other"], 0)
        for rule, jobs in jobs_of_rule.items():
            if rule not in ("all", "total"):
                self.totals[_STAGE_OF.get(rule, "other")] += jobs
        self.totals = {stage: jobs for stage, jobs in self.totals.items() if jobs}
        self.done = dict.fromkeys(self.totals, 0)

    def start(self, job: int, rule: str, name: str, log: Path | None) -> None:
        """Note that a job was started, or handed to a cluster."""
        if rule != "all":
            self.running[job] = RunningJob(rule, name, log, time.monotonic())
            self._stage_of_job[job] = _STAGE_OF.get(rule, "other")

    def finish(self, job: int) -> None:
        """Note that a job ended well."""
        if self.running.pop(job, None):
            stage = self._stage_of_job[job]
            self.done[stage] = self.done.get(stage, 0) + 1

    def fail(self, job: int) -> None:
        """Note that a job ended badly."""
        self.running.pop(job, None)

    @property
    def is_done(self) -> bool:
        """Whether all jobs ended well."""
        return bool(self.totals) and self.done == self.totals

    def line(self) -> str:
        """The run in one line: jobs done, time, and the last message of the job that has run longest."""
        text = f"{sum(self.done.values())} of {sum(self.totals.values())} jobs done, {clock(self.elapsed)}"
        if not self.running:
            return text
        job = min(self.running.values(), key=lambda job: job.since)
        others = f" and {len(self.running) - 1} more" if len(self.running) > 1 else ""
        return f"{text}; {job.rule} {job.name}{others}: {last_words(job.log) or 'waits, or has just begun'}"

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def picture(self) -> RenderableType:
        """The run as a table: a row for each stage with its bar, then one for each running job."""
        table = Table.grid(padding=(0, 2))
        for stage, total in self.totals.items():
            done = self.done[stage]
            style = "dim" if done == total else ""
            bar = ProgressBar(total=total, completed=done, width=24)
            table.add_row(Text(stage, style), bar, Text(f"{done} of {total}", style), "")
        table.add_row("", "", Text(clock(self.elapsed), "dim"), "")
        for job in self.running.values():
            words = last_words(job.log) or "waits, or has just begun"
            spent = Text(clock(time.monotonic() - job.since), "dim")
            table.add_row(Text(job.rule, "bold"), Text(job.name), spent, Text(words, overflow="ellipsis", no_wrap=True))
        return table

    def __rich__(self) -> RenderableType:
        return self.picture()


class RunDisplay:
    """Shows a run on a console while it goes on.

    Parameters
    ----------
    console
        Where to; on a terminal the picture is redrawn twice a second, elsewhere there is one line per minute.
    seconds
        Between two lines.
    """

    def __init__(self, console: SafeConsole, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self.state = RunState()
        self._console = console
        self._seconds = seconds
        self._live: Live | None = None
        self._ended = threading.Event()
        self._lines: threading.Thread | None = None

    def plan(self, jobs_of_rule: Mapping[str, int]) -> None:
        """Begin: the jobs of this run are known."""
        self.state.plan(jobs_of_rule)
        if not self.state.totals:
            return
        _active.append(self)
        if self._console.is_terminal:
            self._live = Live(self.state, console=self._console, refresh_per_second=2, redirect_stdout=False)
            self._live.start()
        else:
            stages = ", ".join(f"{stage} {jobs}" for stage, jobs in self.state.totals.items())
            self._console.print(f"{sum(self.state.totals.values())} jobs: {stages}", soft_wrap=True)
            self._lines = threading.Thread(target=self._print_lines, daemon=True)
            self._lines.start()

    def finish(self, job: int) -> None:
        """A job ended well; the picture is left standing after the last one."""
        self.state.finish(job)
        if self.state.is_done:
            self.stop()

    def fail(self, job: int, rule: str, log: Path | None) -> None:
        """Say which job failed, show the end of its log, and what to do."""
        running = self.state.running.get(job)
        self.state.fail(job)
        name = f" {running.name}" if running else ""
        self.say(f"{rule}{name} failed" + (f"; the end of {log}:" if log else "."), "bold red")
        remedy = "Correct what it names and give the same command again: jobs that are done are kept."
        self.say("\n".join([*(f"  {line}" for line in _end_of(log)), remedy]))

    def say(self, text: str, style: str = "") -> None:
        """Print one line above the picture."""
        self._console.print(Text(text, style), soft_wrap=True)

    def stop(self) -> None:
        """End the picture, or the lines. Calling it again does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._live is not None:
            self._live.stop()
        if self._lines is not None:
            self._lines.join()
        if self.state.totals:
            self._console.print(self.state.line(), soft_wrap=True)
        if self in _active:
            _active.remove(self)

    def _print_lines(self) -> None:
        while not self._ended.wait(self._seconds):
            self._console.print(self.state.line(), soft_wrap=True)


# The display of this process, if a run goes on in it.
_active: list[RunDisplay] = []


def wait_until_still(seconds: float = 5.0) -> None:
    """Wait until the display of this process, if there is one, has handled the end of the last job."""
    end = time.monotonic() + seconds
    while _active and time.monotonic() < end:
        time.sleep(0.02)


def name_of(wildcards: Mapping[str, Any] | None) -> str:
    """A job's wildcards in words: `gpt2-fine`, or `stdlib-online 00003`."""
    return " ".join(str(value) for value in (wildcards or {}).values())


def _end_of(log: Path | None) -> list[str]:
    """The last lines of a log; none if it cannot be read."""
    if log is None:
        return []
    try:
        return log.read_text("utf-8", errors="replace").splitlines()[-_LINES_OF_A_FAILED_LOG:]
    except OSError:
        return ["(no log was written; the log of the whole run says more)"]
