"""Runs of Snakemake, forked from one process that has imported it, and their jobs, forked from it too.

Importing takes longer than most of what the tests run: two seconds for Snakemake, three or four for a job with torch.

The process reads a line with a JSON list (folder, arguments, folder for what is printed), forks a child that runs
Snakemake with these arguments, and answers with the child's exit status. Each run starts from the same fresh imports.
Where Snakemake would start Python with a job's script, it asks a second child, which forks, too, and runs it there.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow" / "scripts"


class WarmSnakemake:
    """A child process, started when it is first asked; it runs with the variables of `environment`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._child: subprocess.Popen[str] | None = None

    def __call__(self, folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        """What `snakemake ARGUMENTS` prints and returns, called in a folder."""
        if self._child is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            command = [sys.executable, __file__]
            self._child = subprocess.Popen(command, env=self._environment, **pipes)
        with tempfile.TemporaryDirectory() as out:
            self._child.stdin.write(json.dumps([str(folder), arguments, out]) + "\n")
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


def _status_of(call: Callable[[], object]) -> int:
    """Exit status of a program whose main function is `call`."""
    try:
        call()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _bury(*_: object) -> None:
    """Wait for the children that have ended; their time counts as this process's then."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _serve_jobs(listener: socket.socket) -> NoReturn:
    """Fork for each connection: it names a folder and a script, and learns the job's process and its exit status."""
    signal.signal(signal.SIGCHLD, _bury)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with connection.makefile("rw") as stream:
                folder, script = json.loads(stream.readline())
                print(os.getpid(), file=stream, flush=True)
                os.chdir(folder)
                sys.argv = [script]
                print(_status_of(partial(runpy.run_path, script, run_name="__main__")), file=stream, flush=True)
            os._exit(0)
        connection.close()


def _run_job(address: str, script: snakemake.script.PythonScript, path: str) -> None:
    """In place of Snakemake's own: run the script of a job in a fork, and measure it if it has a benchmark."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        with connection.makefile("rw") as stream:
            print(json.dumps([str(Path.cwd()), path]), file=stream, flush=True)
            process = int(stream.readline())
            measured = script.bench_record is not None
            with snakemake.benchmark.benchmarked(process, script.bench_record) if measured else nullcontext():
                answer = stream.readline()
    if answer != "0\n":
        raise subprocess.CalledProcessError(int(answer or 1), path)


def _run_snakemake(folder: str, arguments: list[str], out: str) -> int:
    """Exit status of Snakemake, whose jobs are forks of this process; what is printed goes to files of `out`."""
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(out) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout = os.fdopen(os.dup(1), "w")  # in this process it was stderr
    address = str(Path(out) / "jobs")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(16)
        server = os.fork()
        if server == 0:
            _serve_jobs(listener)
    snakemake.script.PythonScript.execute_script = lambda script, path, edit=False: _run_job(address, script, path)
    sys.argv = ["snakemake", *arguments]
    status = _status_of(lambda: snakemake.cli.main(arguments))
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    return status


def _fork(folder: str, arguments: list[str], out: str) -> int:
    """Exit status of Snakemake in a child of this process."""
    child = os.fork()
    if child == 0:
        os._exit(_run_snakemake(folder, arguments, out))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    import snakemake.benchmark
    import snakemake.cli
    import snakemake.script
    import tokenbounds.config.graph
    import tokenbounds.config.resources
    import tokenbounds.external_files  # noqa: F401

    for script in SCRIPTS.glob("*.py"):
        runpy.run_path(str(script))  # what it imports
    gc.freeze()

    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    for line in sys.stdin:
        print(_fork(*json.loads(line)), file=answers, flush=True)
