"""The one decorator of the loops that numba compiles, with or without a folder that keeps the compiled code."""

import sys
from collections.abc import Callable
from functools import cache

from numba import njit


def compiled(function: Callable) -> Callable:
    """Return the function, compiled and free of the GIL. Its code is kept on disk if numba finds a writable folder."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba looks for the folder when it decorates.
        _tell_of_no_cache()
        return njit(nogil=True)(function)


@cache  # Once in a process, not once per loop.
def _tell_of_no_cache() -> None:
    print(
        "note: numba finds no folder for its compiled code: set NUMBA_CACHE_DIR to a writable folder;"
        " compiled anew in this process",
        file=sys.stderr,
    )
