"""Imports that a file in the working folder has no say in.

numba and matplotlib read settings from the folder that a program happens to run in, `.numba_config.yaml` and
`matplotlibrc`. Whoever verifies somebody's results may well stand in the folder of these results, and numba's settings
name a folder of machine code that is unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ignoring(name: str) -> Iterator[None]:
    """Import inside this what would read the file `name` in the working folder.

    If there is one, the library's own folder is the working folder meanwhile, for all threads.
    """
    if not os.path.lexists(name):
        yield
        return
    folder = os.open(".", os.O_RDONLY)
    os.chdir(Path(__file__).parent)
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)
