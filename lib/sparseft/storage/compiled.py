"""Compile loops with numba, and keep the compiled code on disk if possible."""

import sys
from collections.abc import Callable
from functools import cache

from numba import njit

NOT_KEPT = (
    "note: numba finds no writable folder for its compiled code, so this process compiles it again;"
    " set NUMBA_CACHE_DIR to a writable folder"
)
# Once per process, and not once per loop.
_print_once = cache(print)


def compiled(function: Callable) -> Callable:
    """Return the function, compiled and free of the GIL. Its code is kept on disk if numba finds a writable folder."""
    try:
        return njit(nogil=True, cache=True)(function)
    # numba looks for the folder when it decorates.
    except RuntimeError:
        _print_once(NOT_KEPT, file=sys.stderr)
        return njit(nogil=True)(function)
