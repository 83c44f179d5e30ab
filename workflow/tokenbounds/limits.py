"""How much memory this process may use: an error names what is larger, before anything is allocated for it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

from tokenbounds.errors import TokenboundsError

_CGROUP = Path("/sys/fs/cgroup/memory.max")
GIB = 1 << 30


def machine_memory() -> int:
    """Memory of the machine, or of the container that this process is in, bytes."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no such file where there are no cgroups; "max" where no limit is
        machine = min(machine, int(_CGROUP.read_text()))
    return machine


def memory_limit() -> int:
    """What this process may use: its own limits, as `--max-memory` sets them, or the machine's memory, bytes."""
    import resource  # there is none on Windows, where the rest of the library works

    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return min([machine_memory(), *(limit for limit in limits if limit != resource.RLIM_INFINITY)])


def check_memory(needed: int, what: str, error: type[TokenboundsError]) -> None:
    """Refuse what certainly does not fit into the memory of this process.

    Parameters
    ----------
    needed
        At least this many bytes.
    what
        What needs them, for the message.
    error
        The type to raise.
    """
    if needed > memory_limit():
        raise error(
            f"{what} takes {needed / GIB:,.1f} GiB of memory, and at most {memory_limit() / GIB:,.1f} GiB may be used. "
            "Allow more by --max-memory, or use a larger machine."
        )


def release_freed_memory() -> None:
    """Give memory that was freed, but that the C library keeps for later, back to the system, where it can (glibc).

    Tensors of some ten megabytes are cut out of one heap. Those of different sizes leave holes between them, and the
    process grows although little of it is used.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)
