"""numba's compiler, with a cache of machine code where one can be written; all of the library imports it from here.

A cache is unpickled, so it is as dangerous as code. numba would look for it wherever `.numba_config.yaml` in the
working folder says. Here that file is never read, neither now nor when numba reads its settings again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenbounds.surroundings import ignoring

with ignoring(".numba_config.yaml"):
    from llvmlite import ir
    from numba import njit
    from numba.core import cgutils, types
    from numba.core import config as _numba_config
    from numba.extending import intrinsic

config: Any = _numba_config  # its attributes are made when it is loaded
config._config_fname = ""  # read again, relative to the working folder, with every compilation
config.reload_config()  # in case numba was imported before


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function to be compiled when it is first called, by `numba.njit` with these options.

    The machine code is kept for later processes where the environment's NUMBA_CACHE_DIR says (an absolute path), next
    to the source, or in the user's cache folder; where none can be written, as in a package installed read-only for a
    service without a home, each process compiles again.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        if config.CACHE_DIR and not Path(config.CACHE_DIR).is_absolute():  # it would be in the working folder
            return njit(**options)(function)
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return njit(**options)(function)

    return decorate


def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Prefetch the cache line of `array[index]`, in compiled code; it changes no result."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        # To be written (1), kept in the nearest cache (3), data and not code (1).
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, integer(1), integer(3), integer(1)])
        return context.get_dummy_value()

    return types.none(array, index), generate


prefetch: Any = intrinsic(_prefetch)
