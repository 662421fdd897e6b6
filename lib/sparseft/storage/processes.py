"""Make child processes end with their parent."""

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """End this child of multiprocessing as soon as its parent has ended. Let Ctrl-C end it without a traceback.

    A killed parent runs no exit handlers. The child would run or wait without end, and hold the parent's locks."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
