"""How far a job is: written to its log every few seconds, and read from there by whatever watches the run."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

SECONDS_BETWEEN_LOGS = 10.0
_PREFIX = re.compile(r"^[-\d]+ [\d:,]+ [A-Z]+ \S+: ")  # what `jobs` puts before each message
_TAIL_BYTES = 4096


class Progress:
    """Counts what is done and logs it now and then, with speed and the time left.

    Parameters
    ----------
    logger
        Of the module that counts.
    total
        How much there is to do, in `unit`.
    unit
        What is counted: "tokens", "steps", …
    verb
        What is done with them: "scored", …
    done
        What an earlier run had already done; it counts for the share, not for the speed.
    seconds
        Between two messages; the last one is always logged.
    """

    def __init__(
        self,
        logger: logging.Logger,
        total: int,
        unit: str,
        verb: str = "",
        done: int = 0,
        seconds: float = SECONDS_BETWEEN_LOGS,
    ) -> None:
        self.done = done
        self._before = done
        self._total, self._logger, self._seconds = total, logger, seconds
        self._unit, self._verb = unit, f"{verb} " if verb else ""
        self._began = self._logged = time.monotonic()

    def add(self, count: int, detail: str = "") -> None:
        """Count more as done; `detail`, such as a loss, follows the numbers."""
        self.done += count
        now = time.monotonic()
        if now - self._logged < self._seconds and self.done < self._total:
            return
        self._logged = now
        speed = (self.done - self._before) / max(now - self._began, 1e-9)
        left = f", {clock((self._total - self.done) / max(speed, 1e-9))} left" if self.done < self._total else ""
        rate = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
        self._logger.info(
            "%s%s of %s %s, %s %s/s%s%s",
            self._verb,
            f"{self.done:,}",
            f"{self._total:,}",
            self._unit,
            rate,
            self._unit,
            left,
            f"; {detail}" if detail else "",
            extra={"share_done": self.done / max(self._total, 1)},  # for a bar in a terminal
        )


def last_words(log: Path | str | None) -> str:
    """The last message of a job's log, without time and module; empty if there is none."""
    if log is None:
        return ""
    try:
        with Path(log).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    messages = [line for line in lines if _PREFIX.match(line)]
    return _PREFIX.sub("", messages[-1]) if messages else ""


def clock(seconds: float) -> str:
    """A time as people say it: `48 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
