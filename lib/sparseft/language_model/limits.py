"""Limit the time, the memory and the text that a template needs, because anybody may have written it.

The templates are those of a tokenizer, in chat_template.jinja, and those of lm-eval's tasks.
"""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparseft.errors import InputError

# Seconds of a template, of the metrics of a row, and of all filters.
SECONDS = 10
# Bytes of further memory that any of them may need.
_BYTES = 1 << 30
# Characters of a text that a template gives. A model reads far fewer.
_LONGEST = 10**6
# The sizes of this process in pages. The sixth one is what RLIMIT_DATA limits.
_SIZES = Path("/proc/self/statm")


@contextmanager
def limited(what: str, more_seconds: float = 0) -> Iterator[None]:
    """Raise InputError if a `with` block computes for more than SECONDS, or needs more than 1 GB of further memory.

    The seconds are those of the CPU, so that a busy machine refuses nothing. Python's regular expressions are interrupted too.
    Only Linux limits the memory."""
    seconds = SECONDS + more_seconds

    def stop(*_: object) -> None:
        raise InputError(
            f"{what} computes for more than {seconds:.0f} s",
            "write one that ends; a regular expression must not have a repetition in a repetition",
        )

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    handler = signal.signal(signal.SIGVTALRM, stop)
    timer = signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)
    try:
        if _SIZES.exists():
            needed = int(_SIZES.read_text().split()[5]) * resource.getpagesize() + _BYTES
            limit = needed if soft == resource.RLIM_INFINITY else min(needed, soft)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        yield
    except MemoryError:
        raise InputError(f"{what} needs more than 1 GB of memory", "write one that makes shorter texts") from None
    finally:
        # A metric may render a template, which is a limit within a limit.
        signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def check_length(what: str, *texts: str) -> None:
    """Raise InputError if one of the texts that `what` gives is too long."""
    longest = max(map(len, texts))
    if longest > _LONGEST:
        raise InputError(
            f"{what} gives a text of {longest} characters, and at most {_LONGEST} are taken", "write a shorter one"
        )
