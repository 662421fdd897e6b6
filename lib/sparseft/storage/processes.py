"""Child processes that end with their parent."""

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """End this child of multiprocessing as soon as its parent has ended, and at Ctrl-C without a traceback.

    A killed parent runs none of its exits. The child would go on, or wait for work for ever, and hold the parent's locks."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
