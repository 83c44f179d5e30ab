"""Imports that files in the working folder cannot influence.

numba and matplotlib read settings from the folder that a program happens to run in, `.numba_config.yaml` and
`matplotlibrc`. Someone who verifies another person's results may well do so in the folder of these results, and numba's
settings name a folder of machine code that is unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ignoring(name: str) -> Iterator[None]:
    """A context for imports that would read the file `name` in the working folder.

    If there is such a file, the library's own folder is the working folder meanwhile, for all threads.
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
