"""`make run` removes the lock of a killed run, and never that of a living one."""

import subprocess
import sys

import pytest
from tiny_study import ROOT, environment


@pytest.fixture
def locked(tmp_path):
    """A folder with a lock, and a `snakemake` that notes how it was called."""
    (tmp_path / "run/.snakemake/locks").mkdir(parents=True)
    (tmp_path / "run/.snakemake/locks/0.input.lock").write_text("results/report.html\n")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/snakemake"
    command.write_text('#!/bin/sh\necho "$@" > called; rm -r .snakemake/locks\n')
    command.chmod(0o755)
    return tmp_path


def unlock(folder, *arguments):
    path = f"{folder / 'bin'}:{environment()['PATH']}"
    return subprocess.run(
        [ROOT / "workflow/unlock.sh", *arguments],
        cwd=folder / "run",
        env={**environment(), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_lock_of_a_killed_run_is_removed(locked):
    done = unlock(locked, "--configfile", "my study.yaml")
    assert done.returncode == 0
    assert (locked / "run/called").read_text() == "--unlock --configfile my study.yaml\n"
    again = unlock(locked)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.parametrize("here", [True, False], ids=["here", "elsewhere"])
def test_a_living_run_keeps_its_lock(locked, here):
    script = locked / "snakemake.py"
    script.write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=locked / "run" if here else locked,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        done = unlock(locked)
        assert (locked / "run/called").exists() == (not here)
        assert done.returncode == int(here)
        assert (f"process {process.pid} of Snakemake still runs" in done.stderr) == here
    finally:
        process.communicate()
