"""Limit the time and the memory that the templates, filters and metrics of a task need, because a user's file may have any."""

import resource
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from lm_eval.api.task import ConfigurableTask

from sparseft.errors import InputError

# Seconds of a template, of the metrics of a row, and of all filters. The filters get some more for each row.
_SECONDS = 10
_SECONDS_PER_ROW = 0.1
# Bytes of further memory that any of them may need.
_BYTES = 1 << 30
# The sizes of this process in pages. The sixth one is what RLIMIT_DATA limits.
_SIZES = Path("/proc/self/statm")


def limited_template(name: str, template: str) -> AbstractContextManager[None]:
    """Return a limit of what a template of the task `name` needs within a `with` block."""
    return _limited(f"tasks.{name}: the template {template[:100]!r}", _SECONDS)


def limited_filters(name: str, rows: int) -> AbstractContextManager[None]:
    """Return a limit of what the filters of the task `name` need for the answers of `rows` rows."""
    return _limited(f"tasks.{name}: filter_list", _SECONDS + _SECONDS_PER_ROW * rows)


def limit_scores(lm_task: ConfigurableTask, name: str, rows: int) -> None:
    """Limit what the filters of a task need for its `rows` rows, and what its metrics need for each of them."""
    apply_filters = lm_task.apply_filters
    process_results = lm_task.process_results

    def limited_apply_filters() -> None:
        with limited_filters(name, rows):
            apply_filters()

    def limited_process_results(doc: dict, results: list) -> dict:
        with _limited(f"tasks.{name}: metric_list", _SECONDS):
            return process_results(doc, results)

    lm_task.apply_filters = limited_apply_filters
    lm_task.process_results = limited_process_results


@contextmanager
def _limited(what: str, seconds: float) -> Iterator[None]:
    """Raise InputError if a `with` block computes for more than `seconds`, or needs more than 1 GB of further memory.

    The seconds are those of the CPU, so that a busy machine refuses nothing. Python's regular expressions are interrupted too.
    Only Linux limits the memory."""

    def stop(*_: object) -> None:
        raise InputError(
            f"{what} computes for more than {seconds:.0f} s",
            "write one that ends, such as a regular expression without a repetition in a repetition",
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
