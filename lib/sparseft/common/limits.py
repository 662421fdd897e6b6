"""Limit the memory of a process, and the time and memory of a template.

A template, of a tokenizer in chat_template.jinja or of one of lm-eval's tasks, is a program that anybody may have
written.
"""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparseft.common.errors import InputError, one_line

# Seconds of the CPU that the templates of a row may need.
SECONDS = 10
# Bytes of further memory that they may need.
_BYTES = 1 << 30
# Bytes of CUDA's context on a GPU, one per process, and of its libraries in the machine; typical, not
# measured.
CUDA, CUDA_LIBRARIES = 600_000_000, 3_000_000_000


@contextmanager
def limited(what: str, refusal: str, advice: str) -> Iterator[None]:
    """Raise InputError if a `with` block computes for more than SECONDS, or needs more than 1 GB of further memory.

    Raise any other error of the block, of whatever kind it is, as an InputError of one line: `refusal`, and `advice`.
    The seconds are those of the CPU, so that a busy machine refuses nothing. Python's regular expressions are
    interrupted too. Only Linux limits the memory."""

    def stop(*_: object) -> None:
        raise InputError(
            f"{what} computes for more than {SECONDS} s",
            "write one that ends; a regular expression must not have a repetition in a repetition",
        )

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    handler = signal.signal(signal.SIGVTALRM, stop)
    timer = signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS)
    try:
        if used := status_bytes("VmData"):
            needed = used + _BYTES
            limit = needed if soft == resource.RLIM_INFINITY else min(needed, soft)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        yield
    except MemoryError:
        raise InputError(f"{what} needs more than 1 GB of memory", "write one that makes shorter texts") from None
    except InputError:
        raise
    # Templates and functions of other authors may raise anything.
    except Exception as error:
        raise InputError(f"{refusal} ({type(error).__name__}: {one_line(error)[:200]})", advice) from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def limited_memory(limit: int) -> Iterator[None]:
    """Let Linux refuse this process more than `limit` bytes of private memory during the block. Other systems do not.

    The machine may have less. Therefore this process becomes the OOM killer's first choice, also after the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def status_bytes(key: str) -> int | None:
    """Return a number of /proc/self/status in bytes; None if the system has no such file."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    kilobytes = status.read_text().split(f"{key}:")[1].split()[0]
    return 1024 * int(kilobytes)
