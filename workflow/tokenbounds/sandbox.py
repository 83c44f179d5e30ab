"""A function of the library in a process of its own, whose memory and time are limited and which may do little else.

A stranger's files are read by this process: a fault that they provoke there ends it, and is one line here. What
confines it is in `confinement`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tokenbounds import errors
from tokenbounds.errors import TokenboundsError
from tokenbounds.limits import GIB, machine_memory

LEAST_GIB = 1.0
_SHARE_OF_MACHINE = 0.75
# No model hub; and Arrow's own pool would reserve a gibibyte, which counts as memory.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "ARROW_DEFAULT_MEMORY_POOL": "system", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Limits:
    """What a confined function may use.

    Attributes
    ----------
    memory_gib
        Its own data, GiB; None for three quarters of the machine's memory.
    seconds
        Of elapsed time; None for no limit.
    """

    memory_gib: float | None = None
    seconds: float | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory in bytes."""
        share = _SHARE_OF_MACHINE * machine_memory() if self.memory_gib is None else self.memory_gib * GIB
        return max(int(share), int(LEAST_GIB * GIB))


@dataclass(frozen=True)
class Outcome:
    """What a confined function returned, and in words how it was confined.

    Attributes
    ----------
    value
        JSON; dataclasses become mappings of their fields, anything else becomes None.
    confined
        Sentences.
    """

    value: Any
    confined: tuple[str, ...]


def confine(
    function: str, arguments: Mapping[str, Any], limits: Limits, subject: str, writable: Sequence[Path] = ()
) -> Outcome:
    """Call a function of the library in a confined process.

    Parameters
    ----------
    function
        `module:name`.
    arguments
        By name; JSON values, and paths, which become text.
    limits
        Of memory and time.
    subject
        The file at fault, if the process ends without an answer.
    writable
        Folders that it may write to besides a temporary one.

    Raises
    ------
    TokenboundsError
        What the function raised of that kind, with the same type; or one that says how the process ended.
    """
    with tempfile.TemporaryDirectory(prefix="tokenbounds-") as folder, tempfile.TemporaryFile() as complaints:
        job = {
            "function": function,
            "arguments": dict(arguments),
            "memory_bytes": limits.memory_bytes,
            "writable": [folder, *(str(each) for each in writable)],
        }
        # -P: modules of the library's name in the working folder are not ours.
        command = [sys.executable, "-P", "-m", "tokenbounds.confinement"]
        environment = {**os.environ, **_ENVIRONMENT, "TMPDIR": folder}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": complaints}
        with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
            try:
                answer, _ = process.communicate(json.dumps(job, default=str).encode(), limits.seconds)
            except subprocess.TimeoutExpired as error:
                raise TokenboundsError(
                    f"{subject}: this takes longer than {limits.seconds:,.0f} seconds. Allow more by --max-seconds."
                ) from error
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        return _read(answer, process.returncode, complaints, limits, subject)


def _read(answer: bytes, status: int, complaints: IO[bytes], limits: Limits, subject: str) -> Outcome:
    try:
        content = json.loads(answer)
    except ValueError:
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        raise TokenboundsError(
            f"{subject}: the process that reads it ended with {how}, without an answer: {_last_line(complaints)}. It "
            f"may use {limits.memory_bytes / GIB:,.1f} GiB; allow more by --max-memory."
        ) from None
    if "error" in content:
        kind = getattr(errors, content["error"], None)
        raise (kind or TokenboundsError)(content["text"] if kind else f"{subject}: {content['text']}")
    return Outcome(content["value"], tuple(content["confined"]))


def _last_line(complaints: IO[bytes]) -> str:
    """The last line that the process wrote to stderr."""
    size = complaints.seek(0, os.SEEK_END)
    complaints.seek(max(0, size - 1000))
    lines = complaints.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"
