"""Bad input, told in one line: what is wrong, and how to mend it."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path


class InputError(ValueError):
    """What the user gave cannot be used; `mend` says what to do about it."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what, mend)  # both, so that it can be sent from one process to another

    def __str__(self) -> str:
        return "; ".join(self.args)


def run_script(main: Callable[[], int]) -> None:
    """Exit with `main`'s code. An error of any kind is one line on stderr and code 2; Ctrl-C is code 130, as in a shell."""
    try:
        code = main()
    except KeyboardInterrupt:
        sys.exit(130)
    except InputError as error:
        sys.exit(_report(str(error)))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(_report(f"{place}{error.strerror or error}; check the path, its permissions and the free space"))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
        sys.exit(_report(f"{what}; check the input, and if it is right report this line"))
    sys.exit(code)


def _report(line: str) -> int:
    print("error: " + " ".join(line.split()), file=sys.stderr)
    return 2
