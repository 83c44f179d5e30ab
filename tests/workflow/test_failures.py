"""Runs that cannot succeed end with one clear error; runs that are killed go on to the same results."""

import hashlib
import os
import signal
import subprocess
import time

import pytest
from tiny_study import ROOT, environment, tiny_config

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]


def test_a_misspelt_key_is_named_with_the_nearest_valid_one(fresh):
    config = tiny_config()
    config["corpora"]["letters"]["shrads"] = config["corpora"]["letters"].pop("shards")
    done = fresh.snakemake(config=fresh.write_config(config))
    assert done.returncode != 0
    assert "corpora.letters.shrads: unknown key, did you mean 'shards'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (fresh.folder / "results").exists()


def test_a_source_that_matches_no_file_is_named(fresh):
    config = tiny_config()
    config["corpora"]["numbers"]["source"]["paths"] = ["nowhere/*.txt"]
    done = fresh.snakemake(config=fresh.write_config(config))
    assert done.returncode != 0
    assert "corpora.numbers.source: nowhere/*.txt matches no file" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_failed_job_says_why_in_one_line_and_leaves_no_output(fresh):
    for path in (fresh.folder / "numbers").iterdir():
        path.write_text("")
    target = "results/corpora/numbers/manifest.json"
    done = fresh.snakemake(target)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == ["error: corpus numbers is empty: its source gave no token. Check the source's paths and field."]
    log = (fresh.folder / "logs/tokenize_corpus/numbers.log").read_text()
    assert "ERROR tokenbounds: corpus numbers is empty" in log
    assert "Traceback" not in log
    assert not any(path.is_file() for path in (fresh.folder / "results" / "corpora" / "numbers").glob("*"))


def digests(folder):
    """SHA-256 of every result that is a function of the study alone: all but costs and training's own checkpoints."""
    paths = [path for path in (folder / "results").rglob("*") if path.is_file()]
    relative = {path.relative_to(folder / "results").as_posix(): path for path in paths}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in relative.items()
        if not name.startswith(("benchmarks/", "work/"))
    }


def kill_when(process, condition):
    """Kill Snakemake and its jobs with SIGKILL as soon as `condition` holds; fail if the run ends before."""
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_run_goes_on_to_the_same_results(finished, fresh):
    command = fresh.command("--quiet", "all")
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    work = fresh.folder / "results" / "work"
    kill_when(process, lambda: any(work.glob("*/checkpoint-*/trainer_state.json")))
    assert not (fresh.folder / "results/models/transformer/model.safetensors").exists()

    assert fresh.snakemake("--unlock").returncode == 0
    done = fresh.snakemake("--rerun-incomplete")
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(fresh.folder) == digests(finished[0].folder)
