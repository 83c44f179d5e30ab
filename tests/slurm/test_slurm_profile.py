"""The tiny study through a real SLURM: `make slurm-test` brings one up, runs this and stops it."""

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))
from tiny_study import ROOT, TINY, environment, make_corpora, tiny_config

pytestmark = pytest.mark.slurm

LOCAL_RULES = {"plan_scoring", "tabulate_certificates", "draw_figures", "write_report", "sum_published"}
GPU_RULES = {"train_model", "score_shard"}
EXPECTED_JOBS = {
    "tokenize_corpus": 2,
    "train_model": 1,
    "fit_markov": 1,
    "encode_model": 3,
    "score_shard": 4,
    "certify_bound": 3,
}


def accounting(start: str) -> list[dict[str, str]]:
    """What SLURM's accounting knows of the jobs since `start`, with the rule that each ran."""
    fields = "JobID,State,ExitCode,Comment,ReqMem,TimelimitRaw,AllocTRES,ElapsedRaw"
    command = ["sacct", "-X", "-P", "-S", start, f"--format={fields}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    jobs = list(csv.DictReader(done.stdout.splitlines(), delimiter="|"))
    rules = sorted(EXPECTED_JOBS, key=len, reverse=True)
    for job in jobs:
        job["rule"] = next(rule for rule in rules if job["Comment"].startswith(f"rule_{rule}"))
    return jobs


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """The study's folder after a run through SLURM, what the run printed, and the jobs that SLURM accounted for."""
    folder = tmp_path_factory.mktemp("slurm")
    make_corpora(folder)
    start = subprocess.run(["date", "+%Y-%m-%dT%H:%M:%S"], capture_output=True, text=True, check=True).stdout.strip()
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--profile", "slurm"]
    command += ["--workflow-profile", "slurm/gpu", "--configfile", str(TINY), "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout + done.stderr, accounting(start)


def test_the_study_is_complete(submitted):
    folder, output, _ = submitted
    certificates = {path.stem for path in (folder / "results" / "certificates").glob("*.json")}
    assert certificates == set(tiny_config()["certificates"])
    assert (folder / "results" / "report.html").is_file()
    assert "results/report.html" in output


def test_every_job_but_the_small_ones_ran_and_finished_on_slurm(submitted):
    jobs = submitted[2]
    assert Counter(job["rule"] for job in jobs) == EXPECTED_JOBS
    assert {(job["State"], job["ExitCode"]) for job in jobs} == {("COMPLETED", "0:0")}
    assert all(f"SLURM jobid {job['JobID']} " in submitted[1] for job in jobs)


def test_no_job_is_left_in_the_queue(submitted):
    done = subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_small_jobs_run_where_snakemake_runs(submitted):
    folder = submitted[0]
    for rule in LOCAL_RULES:
        assert list((folder / "logs").glob(f"{rule}*")), rule
        assert not list((folder / "logs" / "slurm").glob(f"rule_{rule}*")), rule


def test_jobs_ask_for_memory_time_and_gpus_by_rule(submitted):
    for job in submitted[2]:
        assert ("gres/gpu=1" in job["AllocTRES"]) == (job["rule"] in GPU_RULES), job
    memory = {job["rule"]: int(job["ReqMem"].removesuffix("M")) for job in submitted[2]}
    minutes = {job["rule"]: int(job["TimelimitRaw"]) for job in submitted[2]}
    assert memory["train_model"] > memory["certify_bound"] > 400
    assert minutes["encode_model"] > minutes["certify_bound"]


def test_certificates_verify(submitted):
    folder = submitted[0]
    command = [str(Path(sys.executable).parent / "tokenbounds"), "verify", str(folder / "results" / "certificates")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
