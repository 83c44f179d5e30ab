"""A confined process: give up what reading a stranger's files does not need, call one function, answer in JSON.

Memory is limited by the system. Network and writing are given up permanently where Linux lets any process do so (a
namespace without network; Landlock). Elsewhere, and on top of that, Python's own calls are refused. Run by
`sandbox.confine`.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenbounds.errors import TokenboundsError
from tokenbounds.limits import GIB

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES = 1, 38  # of prctl(2)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # of Landlock; the same numbers on every architecture
# Writing, removing, making and moving files, cutting them short: by the version of Landlock that knows it.
_WRITING = {1: 0b1_1111_1111_0010, 2: 1 << 13, 3: 1 << 14}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_CONNECTS = {"socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo"}
_DEVICES = ("nvidia*", "dri/*", "kfd")  # accelerators, which scoring writes commands to
_RUNS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty"}


def limit_memory(size: int) -> str:
    """Limit the process's own data; return what was done, in words."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return "memory is not limited on this system"
    allowed = resource.getrlimit(resource.RLIMIT_DATA)[1]  # a process may lower its limit, and never raise it
    size = size if allowed == resource.RLIM_INFINITY else min(size, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    return f"at most {size / GIB:,.1f} GiB of memory"


def leave_network() -> str:
    """Enter a namespace without network, if the system allows it; return what was done, in words."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        library.prctl(_DIE_WITH_PARENT, 9, 0, 0, 0)
        user = os.getuid()
        if library.unshare(_NEW_NETWORK) == 0:
            return "no network"
        if library.unshare(_NEW_USER | _NEW_NETWORK) == 0:
            with contextlib.suppress(OSError):  # its own user in there; without it, `nobody`, who may read as much
                Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            return "no network"
    return "no network for Python (the system has no namespace for it)"


def give_up_writing(writable: Sequence[Path]) -> str:
    """Give up writing anywhere else, if the system allows it; return what was done, in words."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        version = library.syscall(_CREATE_RULESET, None, 0, 1)
        writing = sum(bits for known, bits in _WRITING.items() if known <= version)
        rules = library.syscall(_CREATE_RULESET, ctypes.byref(ctypes.c_uint64(writing)), 8, 0) if version > 0 else -1
        if rules >= 0:
            for folder in writable:
                place = os.open(folder, os.O_PATH)
                allowed = writing if folder.is_dir() else writing & (1 << 1 | 1 << 14)
                rule = writing_rule(allowed, place)
                library.syscall(_ADD_RULE, rules, 1, rule, 0)
                os.close(place)
            library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
            done = library.syscall(_RESTRICT_SELF, rules, 0) == 0
            os.close(rules)
            if done:
                return "written is a temporary folder alone"
    return "Python writes to a temporary folder alone (the system cannot enforce it)"


def writing_rule(allowed: int, place: int) -> bytes:
    """Landlock's `path_beneath_attr`, which is packed: rights, and the descriptor of a folder."""
    return allowed.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)


def refuse_calls(writable: Sequence[Path]) -> None:
    """Refuse Python's calls that write elsewhere, connect, or run programs; calls of other languages are not seen."""
    folders = [os.path.realpath(folder) for folder in writable]

    def is_writable(path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # a descriptor that is open already
        where = os.path.realpath(os.fsdecode(path))
        return any(where == folder or where.startswith(folder + os.sep) for folder in folders)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CONNECTS or event in _RUNS:
            raise PermissionError(f"{event} is refused in a confined process")
        if event == "open":
            writes = bool(arguments[2] & _WRITES) if isinstance(arguments[2], int) else False
        else:
            writes = event in _CHANGES
        if writes and not is_writable(arguments[0]):
            raise PermissionError(f"{event} of {os.fsdecode(arguments[0])!r} is refused in a confined process")

    sys.addaudithook(audit)


def _kept() -> list[Path]:
    """Where the library's compiled functions are kept for later use, as compiling takes longer than most checks."""
    package = Path(__file__).parent
    found = [Path(folder) / "__pycache__" for folder, _, _ in os.walk(package) if "__pycache__" not in folder]
    if (stated := os.environ.get("NUMBA_CACHE_DIR")) and Path(stated).is_absolute():
        found.append(Path(stated))
    found.append(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "numba")
    for folder in found:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
    devices = [device for pattern in _DEVICES for device in Path("/dev").glob(pattern)]
    return [*found, Path("/dev/null"), *devices]


def _call(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The function's value or its error, as JSON."""
    module, _, name = function.partition(":")
    try:
        return {"value": getattr(importlib.import_module(module), name)(**arguments)}
    except TokenboundsError as error:
        return {"error": type(error).__name__, "text": str(error)}
    except MemoryError:
        return {"error": "", "text": "it takes more memory than it may. Allow more by --max-memory."}
    except BaseException as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return {"error": "", "text": f"it ends in a fault of this program ({what}). Please report it."}


def plain(value: Any) -> Any:
    """What JSON shows of other values: a dataclass's fields, and null for the rest."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else None


def main() -> None:
    """Read a job from stdin and write the answer to stdout."""
    job = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is not the answer
    writable = [Path(each) for each in job["writable"]] + [each for each in _kept() if each.exists()]
    confined = [limit_memory(job["memory_bytes"]), leave_network(), give_up_writing(writable)]
    refuse_calls(writable)
    json.dump({**_call(job["function"], job["arguments"]), "confined": confined}, answer, default=plain)
    answer.flush()
    os._exit(0)  # threads that are left over do not matter


if __name__ == "__main__":
    main()
