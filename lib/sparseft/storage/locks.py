"""Let only one process write an output, and let no child process survive its parent.

Killing Snakemake leaves its jobs alive. Without a lock, the next command would write an output beside such an orphan.
The lock is the file `.NAME.lock` beside the output NAME. The system frees it, however its process ends.
"""

import atexit
import fcntl
import multiprocessing
import os
import signal
import socket
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from sparseft.common.errors import InputError, naming

# The open lock files of this process. Closing one would free its lock.
_HELD: list[TextIO] = []


def hold(path: Path) -> None:
    """Make an output this process's own until the process ends. If another process holds it, say so on stderr and
    wait."""
    path = path.resolve()
    lock = path.with_name(f".{path.name}.lock")
    if str(lock) in (file.name for file in _HELD):
        raise InputError(f"{path} is given for two outputs", "name another place")
    with naming(path, lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(lock, path)
        _HELD.append(file)
        atexit.register(_remove, lock, os.getpid())
        os.ftruncate(file.fileno(), 0)
        # Unbuffered, so that a full disk is an error here and not at the end of the process.
        os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())


def _open_locked(lock: Path, path: Path) -> TextIO:
    """Return the lock's file, open and locked."""
    while True:
        file = open(str(lock), "a+", opener=lambda *_: open_lock(lock))  # noqa: SIM115  It stays open until the process ends.
        file.seek(0)
        holder = file.read() or "another process"
        try:
            lock_file(file, f"{path} is being written by {holder}, perhaps of a killed command: waiting for its end")
        except OSError as error:
            what = f"warning: {path.parent}: this file system has no locks ({error.strerror});"
            print(f"{what} make sure that no process of a killed command is still running", file=sys.stderr, flush=True)
        # The process before this one removed its lock file when it ended. A lock on a removed file excludes nobody.
        with suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == lock.stat().st_ino:
                return file
        file.close()


def open_lock(path: Path, flags: int = os.O_CREAT) -> int:
    """Return the descriptor of a lock file. No link is followed.

    Raises InputError if something else than a file is there, such as a pipe, which would let this process wait."""
    descriptor = os.open(path, flags | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise InputError(f"{path}: not a file, so no lock", "remove it")
    return descriptor


def lock_file(file: TextIO, waiting: str) -> None:
    """Lock an open file. If another process holds the lock, say that this one is `waiting` on stderr, and wait."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(waiting, file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def _remove(lock: Path, owner: int) -> None:
    """Remove the lock file at the end of its owner. A forked child inherits this exit handler, and must not."""
    if os.getpid() == owner:
        lock.unlink(missing_ok=True)


def end_with_parent() -> None:
    """End this child of multiprocessing as soon as its parent has ended. Let Ctrl-C end it without a traceback.

    A killed parent runs no exit handlers. The child would run or wait without end, and hold the parent's locks."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent, "only a child waits"
    parent.join()
    os._exit(1)
