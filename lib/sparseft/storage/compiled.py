"""Compile loops with numba, and keep the compiled code on disk if possible."""

import warnings
from collections.abc import Callable

from numba import njit

NOT_KEPT = (
    "numba finds no writable folder for its compiled code, so this process compiles it again;"
    " set NUMBA_CACHE_DIR to a writable folder"
)


def compiled(function: Callable) -> Callable:
    """Return the function, compiled and free of the GIL. Its code is kept on disk if numba finds a writable folder."""
    try:
        return njit(nogil=True, cache=True)(function)
    # numba looks for the folder when it decorates.
    except RuntimeError:
        # It is printed once per process, and not once per loop.
        warnings.warn(NOT_KEPT, stacklevel=1)
        return njit(nogil=True)(function)
