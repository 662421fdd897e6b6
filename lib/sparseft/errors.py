"""Report a script's error as one line on stderr, below its traceback if you ask for that.

SPARSEFT_DEBUG=1 prints the traceback of every error. The rules of the workflow set SPARSEFT_LOG_TRACEBACKS=1, because
the stderr of their scripts is a log. The log gets every traceback except that of an InputError, which the user can correct.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

# Each line of a traceback begins with it, so that a log's reader can tell the traceback from messages.
MARK = "traceback | "
_PACKAGE = Path(__file__).resolve().parent
_PROJECT = _PACKAGE.parents[1]
_OWN_CODE = (_PACKAGE, _PROJECT / "workflow/scripts")


class InputError(ValueError):
    """Report that the user's input cannot be used: `what` is wrong with it, and `mend` says what to do."""

    def __init__(self, what: str, mend: str) -> None:
        # Both are arguments, so that pickle can send the error from one process to another.
        super().__init__(what, mend)

    def __str__(self) -> str:
        return "; ".join(self.args)


def run_script(main: Callable[[], int]) -> None:
    """Exit with the code that `main` returns. An error is one line on stderr and code 2; Ctrl-C is one line and code 130."""
    try:
        code = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)  # as in a shell
    except Exception as error:
        print_traceback(error)
        print("error: " + " ".join(_message(error).split()), file=sys.stderr)
        sys.exit(2)
    sys.exit(code)


def print_traceback(error: Exception) -> None:
    """Print the traceback on stderr if debugging, or if stderr is a log and the error is not an InputError."""
    is_logged = _is_set("SPARSEFT_LOG_TRACEBACKS") and not isinstance(error, InputError)
    if not _is_set("SPARSEFT_DEBUG") and not is_logged:
        return
    error.__suppress_context__ = False  # `raise InputError(...) from None` hides its cause from the user only
    lines = "".join(traceback.format_exception(error)).splitlines()
    print("".join(f"{MARK}{line}\n" for line in lines), end="", file=sys.stderr)


def own_place(error: Exception) -> str:
    """Return the innermost line of this project in an error's traceback; the innermost of all if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    innermost = frames[-1]
    file = Path(innermost.filename).name
    for frame in frames:
        path = Path(frame.filename).resolve()
        if path != Path(__file__).resolve() and any(path.is_relative_to(folder) for folder in _OWN_CODE):
            innermost = frame
            file = path.relative_to(_PROJECT)
    return f"{file}, line {innermost.lineno}, in {innermost.name}"


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def _message(error: Exception) -> str:
    """Return what is wrong, where, and what to do about it."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; check the path, its permissions and the free space"
    what = f"{type(error).__name__}: {error} ({own_place(error)})"
    return f"{what}; check the input, and if it is right report this line"
