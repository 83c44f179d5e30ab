"""Snakemake's dry runs, forked from one process that has imported it: importing takes longer than most of them.

The process reads a line with a JSON list (arguments, folder for what is printed), forks a child that runs Snakemake
with these arguments, and answers with the child's exit status. Each run starts from the same fresh imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


class WarmSnakemake:
    """A child process, started when it is first asked; it runs in `folder` with the variables of `environment`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._child: subprocess.Popen[str] | None = None

    def __call__(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        """What `snakemake ARGUMENTS` prints and returns."""
        if self._child is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            command = [sys.executable, __file__]
            self._child = subprocess.Popen(command, cwd=self._folder, env=self._environment, **pipes)
        with tempfile.TemporaryDirectory() as out:
            self._child.stdin.write(json.dumps([arguments, out]) + "\n")
            self._child.stdin.flush()
            answer = self._child.stdout.readline()
            assert answer, "the process that runs Snakemake has ended; its error is above"
            texts = [Path(out, name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(arguments, int(answer), *texts)

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.stdin.close()
            self._child.wait()
            self._child = None


def _run(arguments: list[str], out: str) -> int:
    """Exit status of Snakemake in a child of this process, which writes into files of the folder `out`."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(Path(out) / name, os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["snakemake", *arguments]
        snakemake.cli.main(arguments)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    import snakemake.cli
    import tokenbounds.config.graph
    import tokenbounds.config.resources
    import tokenbounds.external_files  # noqa: F401

    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    for line in sys.stdin:
        print(_run(*json.loads(line)), file=answers, flush=True)
