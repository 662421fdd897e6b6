"""Say how far a long computation is: in a bar on a terminal, and in whole lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
# Seconds between two lines of a log, at least.
PAUSE = 5


def show(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the items of a loop, and say how many of all are done.

    A log gets a line `WHAT 3 of 30, 41 s` for each item that ends at least PAUSE after the last line. A short loop has
    none."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total)
        return
    start = last = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= PAUSE or (number == total and last > start):
            print(f"{what} {number} of {total}, {now - start:.0f} s", file=sys.stderr, flush=True)
            last = now
