"""Limit the time and the memory of a template: of a tokenizer, in chat_template.jinja, or of one of lm-eval's tasks.

A template is a program that anybody may have written.
"""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from sparseft.errors import InputError
from sparseft.language_model.hardware import private_memory

# Seconds of the CPU that the templates of a row may need.
SECONDS = 10
# Bytes of further memory that they may need.
_BYTES = 1 << 30


@contextmanager
def limited(what: str) -> Iterator[None]:
    """Raise InputError if a `with` block computes for more than SECONDS, or needs more than 1 GB of further memory.

    The seconds are those of the CPU, so that a busy machine refuses nothing. Python's regular expressions are interrupted too.
    Only Linux limits the memory."""

    def stop(*_: object) -> None:
        raise InputError(
            f"{what} computes for more than {SECONDS} s",
            "write one that ends; a regular expression must not have a repetition in a repetition",
        )

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    handler = signal.signal(signal.SIGVTALRM, stop)
    timer = signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS)
    try:
        if used := private_memory():
            needed = used + _BYTES
            limit = needed if soft == resource.RLIM_INFINITY else min(needed, soft)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        yield
    except MemoryError:
        raise InputError(f"{what} needs more than 1 GB of memory", "write one that makes shorter texts") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
