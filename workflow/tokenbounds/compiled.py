"""numba's compiler, with a cache of machine code where one can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function to be compiled when it is first called, by `numba.njit` with these options.

    The machine code is kept for later processes beside the source, or in the user's cache folder; where neither can be
    written, as in a package installed read-only for a service without a home, each process compiles again.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return njit(**options)(function)

    return decorate
