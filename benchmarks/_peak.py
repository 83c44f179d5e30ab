"""The most memory that a process had, in bytes on every system."""

import resource
import sys

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def peak_bytes(of: int = resource.RUSAGE_SELF) -> int:
    """Of this process since it started; with RUSAGE_CHILDREN, of the largest that it has waited for."""
    return UNIT * resource.getrusage(of).ru_maxrss
