"""Child processes that end with their parent."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Called in a child of multiprocessing: it ends as soon as its parent has. A killed parent runs none of its exits; the child
    would go on, or wait for work for ever, and hold the parent's locks."""
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
