"""The peak memory of this process, which the kernel can be told to forget: a parent's is inherited otherwise."""

import re
from pathlib import Path

import pytest

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak():
    """Start again; what is in memory now is the peak. Skips the test where the kernel cannot do so."""
    try:
        FORGET.write_text("5")
    except OSError:
        pytest.skip("needs a Linux that resets the peak of a process")
    return peak_kibibytes()


def peak_kibibytes():
    """The most that was in memory since then, KiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1])
