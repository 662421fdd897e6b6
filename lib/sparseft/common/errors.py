"""Say what is wrong and what to do about it: an InputError for what the user can correct, and any other exception in
one line."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

# Every line of a printed traceback begins with it, so that a log's reader can tell tracebacks from messages.
TRACEBACK_PREFIX = "traceback | "
# What to do about an error by the name of its class or of a base class. Those of other libraries are not imported here.
_ADVICE = {
    "OutOfMemoryError": "lower training.micro_batch_size or evaluation_batch_size (docs/questions.md)",
    "ClusterConfigError": "run on the appliance's user node, or set cerebras.target to CPU",
    # Libraries raise these for a wrong value, or for a damaged file.
    **dict.fromkeys(
        ("ValueError", "LookupError", "EOFError", "BadZipFile", "SafetensorError", "UnpicklingError", "YAMLError"),
        "correct the flag, the key of the configuration or the file that it comes from",
    ),
}
_PROJECT = Path(__file__).resolve().parents[3]
_OWN_CODE = (_PROJECT / "lib/sparseft", _PROJECT / "workflow/scripts")


class InputError(ValueError):
    """Report that the user's input cannot be used.

    `what` says what is wrong, with the value and the place. `advice` says what to do about it."""

    def __init__(self, what: str, advice: str) -> None:
        # Both are arguments of the exception, so that pickle can send it from one process to another.
        super().__init__(what, advice)

    def __str__(self) -> str:
        return "; ".join(filter(None, self.args))


@contextmanager
def located(place: str) -> Iterator[None]:
    """Let the error of input that cannot be used begin with its place. An empty one changes nothing."""
    try:
        yield
    except InputError as error:
        what, advice = error.args
        raise InputError(f"{place}: {what}" if place else what, advice) from None


def is_full(error: BaseException) -> bool:
    """Return whether an error says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let the error of a full disk name the file that was being written. If that is not known, it names `path`.

    A file in the folder `temporary` has the name that it would have in `path`."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            # A copy names its source first. A write names no file.
            written = Path(str(error.filename2 or error.filename or path))
            if temporary and temporary in (written, *written.parents):
                written = path / written.relative_to(temporary)
            error.filename, error.filename2 = str(written), None
        raise


def print_traceback(error: Exception) -> None:
    """Print the traceback on stderr if debugging, or if stderr is a log and the user cannot correct the error."""
    is_logged = _is_set("SPARSEFT_LOG_TRACEBACKS") and not (isinstance(error, InputError) or is_full(error))
    if not _is_set("SPARSEFT_DEBUG") and not is_logged:
        return
    # `raise InputError(...) from None` hides the cause from the user, but not from somebody who debugs.
    error.__suppress_context__ = False
    lines = "".join(traceback.format_exception(error)).splitlines()
    print("".join(f"{TRACEBACK_PREFIX}{line}\n" for line in lines), end="", file=sys.stderr)


def own_place(error: Exception) -> str:
    """Return the innermost place of this project's code in an error's traceback, or of any code if there is none."""
    # The first frame is the one that caught the error.
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if any(Path(frame.filename).resolve().is_relative_to(code) for code in _OWN_CODE)]
    innermost = (own or frames)[-1]
    path = Path(innermost.filename).resolve()
    place = path.relative_to(_PROJECT) if own else path.name
    return f"{place}, line {innermost.lineno}, in {innermost.name}"


def one_line(value: object) -> str:
    """Return the text of a value on one line."""
    return " ".join(str(value).split())


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def end(read: Callable[[], Callable[[], int | None]]) -> NoReturn:
    """Run the program that `read` makes of the command line, and exit with the code that it returns (None is 0).

    Any exception prints one line and exits with 2. Ctrl-C exits with 130."""
    try:
        code = read()()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        # As a shell reports a program that SIGINT ended.
        code = 130
    except Exception as error:
        print_traceback(error)
        # One write, so that the lines of processes that share a log do not mix.
        sys.stderr.write(f"error: {one_line(message(error))}\n")
        code = 2
    # Outside of the handlers, so that the frames of the exception are gone. torch has aborted where they held tensors
    # when Python ended.
    sys.exit(code or 0)


def message(error: Exception) -> str:
    """Return what is wrong, where, and what to do about it, for any exception."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; check the path, its permissions and the free space"
    kinds = [kind.__name__ for kind in type(error).__mro__]
    advice = next((_ADVICE[kind] for kind in kinds if kind in _ADVICE), "report this line")
    what = f"no {error}" if isinstance(error, KeyError) else str(error)
    return f"{kinds[0]}: {what} ({own_place(error)}); {advice}"
