"""How far a run is, as a person sees it: from a job's log to the picture, and from Snakemake's events to lines."""

import io
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tokenbounds.progress as progress_module
from tokenbounds.display import STAGES, RunDisplay, RunState, plain_error, wait_until_still
from tokenbounds.jobs import job
from tokenbounds.progress import Progress, clock, last_words
from tokenbounds.terminal import SafeConsole, progress_bar

WORKFLOW = Path(__file__).parents[1] / "workflow"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_times_in_words(seconds, text):
    assert clock(seconds) == text


def test_progress_says_speed_and_what_is_left_and_keeps_quiet_in_between(caplog, monkeypatch):
    now = iter([0.0, 4.0, 10.0, 11.0, 20.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(now))
    caplog.set_level(logging.INFO)
    # An earlier run had done 100 of 400: they count for the share, not for the speed.
    progress = Progress(logging.getLogger("x"), 400, "steps", done=100)
    for count in (40, 60, 20, 180):
        progress.add(count, "3.100 bits per token")
    assert [record.getMessage() for record in caplog.records] == [
        "200 of 400 steps, 10 steps/s, 20 s left; 3.100 bits per token",
        "400 of 400 steps, 15 steps/s; 3.100 bits per token",
    ]


def test_the_last_words_of_a_job_come_from_its_log(tmp_path):
    log = tmp_path / "a.log"
    assert last_words(log) == "" == last_words(None)
    with job(log) as logger:
        Progress(logger, 10**9, "tokens", "scored", seconds=0).add(1000)
        words = last_words(log)
        logger.info("x" * 10_000)
    assert words.startswith("scored 1,000 of 1,000,000,000 tokens, ")
    assert last_words(log).startswith("done in ")


def test_every_rule_of_the_workflow_has_its_stage():
    rules = {line.split()[1].rstrip(":") for path in (WORKFLOW / "rules").glob("*.smk")
             for line in path.read_text().splitlines() if line.startswith("rule ")}  # fmt: skip
    assert rules == {rule for rules_of_stage in STAGES.values() for rule in rules_of_stage}


def test_a_run_is_counted_by_stage():
    state = RunState()
    state.plan({"train_model": 2, "fit_markov": 1, "score_shard": 4, "all": 1, "total": 8, "unheard_of": 1})
    assert state.totals == {"models": 3, "scores": 4, "other": 1}
    state.start(1, "train_model", "a", None)
    state.start(2, "score_shard", "b", None)
    state.finish(1)
    state.finish(1)  # a second end of the same job changes nothing
    state.fail(2)
    assert (state.done, state.running) == ({"models": 1, "scores": 0, "other": 0}, {})
    assert not state.is_done and state.line().startswith("1 of 8 jobs done")


def test_lines_without_a_terminal_and_the_end_of_a_failed_log(tmp_path):
    log = tmp_path / "fail.log"
    log.write_text("\n".join(f"line {i}" for i in range(40)) + "\n2026-01-01 00:00:00,000 ERROR m: no \x1b]0;space\x07")
    out = io.StringIO()
    display = RunDisplay(SafeConsole(file=out, width=200), seconds=0.01)
    display.plan({"fit_markov": 2})
    display.state.start(1, "fit_markov", "a", log)
    end = time.monotonic() + 120
    while "0 of 2 jobs done" not in out.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    display.fail(1, "fit_markov", log)
    display.stop()
    wait_until_still()
    text = out.getvalue()
    assert "2 jobs: models 2" in text and "fit_markov a: no" in text
    assert f"fit_markov a failed; the end of {log}:" in text
    assert "line 29\n" in text and "line 28\n" not in text and "\x1b" not in text


def test_an_error_to_correct_is_shown_without_where_it_was_raised():
    raised = (
        'CorpusError in file "common.smk", line 26:\nno file.\n  Name one.\n  File "common.smk", line 26, in <module>'
    )
    assert plain_error(raised) == "error: no file.\n  Name one."
    # Of a defect, everything is shown.
    defect = raised.replace("CorpusError", "KeyError")
    assert plain_error(defect) == defect


@pytest.mark.workflow
def test_snakemake_shows_stages_and_keeps_its_own_words_in_a_file(tmp_path):
    (tmp_path / "Snakefile").write_text(
        'rule all:\n    input: "a", "b"\n'
        'rule fit_markov:\n    output: "{m}"\n    log: "log/{m}.log"\n'
        '    shell: "echo noise >&2; echo why > {log}; test {wildcards.m} = a && touch {output}"\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(WORKFLOW), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--keep-going", "--logger", "tokenbounds"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "2 jobs: models 2" in done.stderr and "1 of 2 jobs done" in done.stderr
    assert "fit_markov b failed; the end of log/b.log:\n  why\n" in done.stderr
    # Neither Snakemake's job texts nor what jobs print come between; both are in the file that the first line names.
    assert "noise" not in done.stderr and "jobid" not in done.stderr and "non-zero" not in done.stderr
    name = done.stderr.split("Everything Snakemake says is in ")[1].split(";")[0]
    kept = (tmp_path / name).read_text()
    assert "noise" in kept and "rule fit_markov:" in kept and "Complete log" in kept


def test_a_command_shows_the_progress_that_is_logged_in_a_terminal_only():
    def shown(**options):
        console = SafeConsole(file=io.StringIO(), width=140, **options)
        with progress_bar(console):
            progress = Progress(logging.getLogger("tokenbounds.test"), 4, "blocks", "calibrated:", seconds=0)
            progress.add(1)
            progress.add(3, "\x1b[2J hostile text")
        logging.getLogger("tokenbounds.test").info("afterwards")
        return console.file.getvalue()

    text = shown(force_terminal=True)
    assert "calibrated: 4 of 4 blocks" in text and "hostile" in text
    assert "\x1b[2J" not in text and "afterwards" not in text
    assert shown(force_terminal=False) == ""
