"""`snakemake --logger tokenbounds`: Snakemake's events as `tokenbounds.display` shows them.

Snakemake finds the plugin by this package's name. Snakemake's own output, and that of jobs, goes to a file in
`logs/run`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from tokenbounds.display import RunDisplay, name_of, plain_error
from tokenbounds.terminal import SafeConsole

LOGS = Path("logs/run")
# What Snakemake adds to the failure of a job, which the display has already reported.
_REPEATS = ("returned non-zero exit status", "At least one job did not complete", "Exiting because a job execution")


class LogHandler(LogHandlerBase):
    """Shows a run on the terminal, and keeps everything that Snakemake says in a file."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True  # of ours: events carry no text that a filter could judge
    has_formatter = False  # Snakemake's words, for the file
    needs_rulegraph = False

    def __post_init__(self) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        path = LOGS / time.strftime("%Y-%m-%d-%H%M%S.log")
        # Jobs inherit standard error: what they print goes to the file, so that nothing disturbs the picture.
        sys.stderr.flush()
        self._terminal = os.fdopen(os.dup(2), "w")
        self._file = path.open("w", encoding="utf-8")
        os.dup2(self._file.fileno(), 2)
        self._display = RunDisplay(SafeConsole(file=self._terminal))
        self._display.say(f"Everything Snakemake says is in {path}; VERBOSE=1 shows it here.", "dim")

    def emit(self, record: logging.LogRecord) -> None:
        """Show one event."""
        try:
            self._write(record)
            self._show(record)
        except Exception:
            self.handleError(record)

    def _write(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if text:
            print(text, file=self._file, flush=True)

    def _show(self, record: logging.LogRecord) -> None:
        said = record.__dict__
        log = Path(said["log"][0]) if said.get("log") else None
        match said.get("event"):
            case LogEvent.RUN_INFO:
                self._display.plan(said["stats"])
            case LogEvent.JOB_INFO:
                self._display.state.start(said["jobid"], said["rule_name"], name_of(said["wildcards"]), log)
            case LogEvent.JOB_FINISHED:
                self._display.finish(said["job_id"])
            case LogEvent.JOB_ERROR:
                self._display.fail(said["jobid"], said["rule_name"], log)
            case None | LogEvent.ERROR if record.levelno >= logging.ERROR:
                if not any(words in record.getMessage() for words in _REPEATS):
                    self._display.say(plain_error(record.getMessage()), "red")
            case None if record.getMessage().startswith("Nothing to be done"):
                self._display.say(record.getMessage())

    def close(self) -> None:
        """End the picture, and give standard error back."""
        self._display.stop()
        os.dup2(self._terminal.fileno(), 2)
        self._file.close()
        super().close()
