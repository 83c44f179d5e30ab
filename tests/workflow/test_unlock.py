"""Before Snakemake, `make run` reads the configuration and removes a killed run's lock, never that of a living one."""

import re
import runpy
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


FILES = {
    "right.yaml": b"study: s\n",
    "utf16.yaml": "study: s\n".encode("utf-16"),
    "latin1.yaml": b"study: caf\xe9\n",
    "twice.yaml": b"study: s\nstudy: t\n",
    "list.yaml": b"- study\n",
    "empty.yaml": b"",
}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("", None),
        ("-n --config study=t --cores 2", None),
        ("--configfile right.yaml --cores 2", None),
        ("--cores 2 --configfile none.yaml", "none.yaml does not exist. Pass an existing configuration file."),
        ("--configfile=utf16.yaml", "utf16.yaml is not UTF-8 text. Save it with the encoding UTF-8."),
        ("--configfile right.yaml latin1.yaml -n", "latin1.yaml is not UTF-8 text. Save it with the encoding UTF-8."),
        ("--configfiles twice.yaml", "twice.yaml: the key 'study' occurs twice, in line 1 and in line 2. Keep one."),
        ("--configfile list.yaml", "list.yaml holds no mapping of keys. Start from config/config.yaml."),
        ("--configfile empty.yaml", "empty.yaml holds no mapping of keys. Start from config/config.yaml."),
        ("--configfile config", "config cannot be read: Is a directory."),
    ],
)
def test_a_faulty_configuration_is_one_line_before_snakemake_reads_it(tmp_path, monkeypatch, arguments, line):
    (tmp_path / "config").mkdir()
    for name, content in {**FILES, "config/config.yaml": b"study: default\n"}.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check_config.py", *arguments.split()])
    try:
        runpy.run_path(str(ROOT / "workflow/check_config.py"))
    except SystemExit as end:
        assert end.code == f"error: {line}"
    else:
        assert line is None


def test_make_run_reads_the_configuration_before_anything_else():
    recipe = re.search(r"^run:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = recipe[1].splitlines()
    assert "workflow/check_config.py $(ARGS)" in commands[0] and "snakemake" not in commands[0]
    assert any("snakemake --rerun-incomplete" in command for command in commands)
