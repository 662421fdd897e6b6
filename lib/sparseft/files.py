"""Files that are either whole or absent: written beside their place, synced, then renamed."""

import atexit
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from sparseft.errors import InputError

WEIGHTS = "adapter_model.safetensors"  # of an adapter, as PEFT calls it
ADAPTER_FILES = (WEIGHTS, "adapter_config.json")
OURS = ("config.json", "adapter_config.json")  # a folder that holds one may be replaced
_HELD: list[TextIO] = []  # the locks of this process


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it, on failure remove it."""
    with atomic_files(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_files(*paths: Path | str) -> Iterator[list[Path]]:
    """As `atomic_file`, for files of which all are to be there or none: the first is renamed once the last is written."""
    check_writable(*paths)
    places = [Path(path).resolve() for path in paths]
    temporaries = [_temporary(place) for place in places]
    try:
        yield temporaries
        for temporary in temporaries:
            _sync(temporary)
        for temporary, place in zip(temporaries, places, strict=True):
            os.replace(temporary, place)
        for folder in {place.parent for place in places}:
            _sync(folder)  # the renames themselves live in the folder
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def check_writable(*paths: Path | str) -> None:
    """Raises InputError for a place where no file can be written: asked before long work, not after it."""
    for place in (Path(path).resolve() for path in paths):
        folder = next(parent for parent in place.parents if parent.exists())
        if place.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"{place}: no file can be written there", "check the path, its permissions and the free space"
            )


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success sync its files and put it in `path`'s place."""
    path = Path(path).resolve()
    check_replaceable(path)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        lost = (
            {file.name for file in path.iterdir()} - {file.name for file in temporary.iterdir()}
            if path.exists()
            else ()
        )
        if lost:
            raise InputError(f"{path}: {min(lost)} is in it, and would be lost", "name a new folder")
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success sync its files and move each into `folder`, over older ones."""
    folder = folder.resolve()
    temporary = _temporary(folder)
    temporary.mkdir()
    try:
        yield temporary
        files = [file for file in temporary.rglob("*") if file.is_file()]
        places = {file: folder / file.relative_to(temporary) for file in files}
        check_writable(*places.values())
        for file, place in places.items():
            _sync(file)
            place.parent.mkdir(parents=True, exist_ok=True)
        for file, place in places.items():
            os.replace(file, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_with(folder: Path) -> Iterator[None]:
    """Remove a folder that was just written where what belongs beside it cannot be written: half a product is none."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_replaceable(path: Path) -> None:
    """Raises InputError for what `atomic_folder` would not replace."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: a file is in its place", "name a new folder")
    if path.is_dir() and any(path.iterdir()) and not any((path / name).exists() for name in OURS):
        raise InputError(f"{path}: a folder with other files, which would be lost", "name a new folder")


def hold(path: Path | str) -> None:
    """Make an output this process's own until it ends; while another process makes it, say so and wait.

    Who kills Snakemake leaves its jobs alive: the next command's job waits for the orphan, and writes after it. The lock
    is `.NAME.lock` beside the output; the system frees it, however its process ends."""
    path = Path(path).resolve()
    lock = path.with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(lock, "a+")  # noqa: SIM115  open until the process ends
        _wait_for(file, path)
        with suppress(FileNotFoundError):  # its last holder removed it, and who comes next would not see this lock
            if os.fstat(file.fileno()).st_ino == lock.stat().st_ino:
                break
        file.close()
    _HELD.append(file)
    atexit.register(_release, lock, os.getpid())
    os.ftruncate(file.fileno(), 0)
    write_at(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)  # a full disk says so here


def _wait_for(file: TextIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read() or "another process"
        print(f"{path} is being written by {holder}, left by a killed command perhaps: waiting for its end",
              file=sys.stderr, flush=True)  # fmt: skip
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        print(f"warning: {path.parent}: this file system has no locks ({error.strerror}): end what a killed command"
              " left behind by hand", file=sys.stderr, flush=True)  # fmt: skip


def _release(lock: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child
        lock.unlink(missing_ok=True)


def write_json(path: Path | str, content: object) -> None:
    """Write `content` as indented JSON, atomically; not-a-number is refused, JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def read_json(path: Path | str, mend: str = "run the step that writes it again") -> dict:
    """Read a JSON object. Raises InputError where the file is missing or is not one."""
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", mend) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})", mend) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a JSON object is expected", mend)
    return content


def write_at(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` at a place of an open file; a nearly full disk takes a part before it refuses."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def sha256(path: Path | str) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def adapter_digest(folder: Path) -> str:
    """sha256 over an adapter's matrices' and the configuration's sha256, which holds r and alpha, joined by a newline."""
    parts = [sha256(folder / name) for name in ADAPTER_FILES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _temporary(path: Path) -> Path:
    """A name beside `path` for this process; what a killed process left there under its own is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        owner = left.name.split(".")[-2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if own.exists():  # of a dead process that had this number
        shutil.rmtree(own) if own.is_dir() else own.unlink()
    return own


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
