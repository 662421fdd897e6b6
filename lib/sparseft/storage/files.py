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
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from sparseft.errors import InputError

WEIGHTS = "adapter_model.safetensors"  # of an adapter, as PEFT calls it
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (WEIGHTS, ADAPTER_CONFIG)
MARKER = ".sparseft"  # Hidden, so that no reader of a model or an adapter takes it for content.
_MARKED = "SparseFT wrote this folder, and replaces what it wrote here when it makes it again.\n"
_SNAKEMAKE = ".snakemake_timestamp"  # Snakemake leaves it in every folder that is an output.
# The most bytes that are read into memory, by kind of file.
JSON_LIMIT, TEXT_LIMIT, ROWS_LIMIT = 10**9, 4 * 10**9, 16 * 10**9
ADAPTER_LIMIT = 64 * 10**9
_HELD: list[TextIO] = []  # the locks of this process


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it, on failure remove it."""
    with atomic_files(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_files(*paths: Path | str) -> Iterator[list[Path]]:
    """Do as `atomic_file` for several files, all or none: the first is renamed once the last is written."""
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
    """Raise InputError for a place where no file can be written, before long work and not after it.

    A device or a pipe is refused too, because the file would replace it."""
    for place in (Path(path).resolve() for path in paths):
        folder = next(parent for parent in place.parents if parent.exists())
        taken = place.exists() and not place.is_file()
        if taken or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"{place}: no file can be written there", "check the path, its permissions and the free space"
            )


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Raise InputError if an output is one of the inputs, or lies inside an input folder; None is no input."""
    read = [path.resolve() for path in inputs if path]
    for output in outputs:
        place = output.resolve()
        if any(path in (place, *place.parents) for path in read):
            raise InputError(f"{output} is an input, or lies in one", "name another place")


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success mark it, sync its files and put it in `path`'s place.

    Raises InputError, and changes nothing, if `path` holds a file that this program did not write."""
    path = Path(path).resolve()
    check_replaceable(path)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        mark(temporary)
        for file in temporary.rglob("*"):
            _sync(file)
        _replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Put a folder in the place of `path`. An older one is moved aside first, so that it is never there in part."""
    check_replaceable(path)
    older = _aside(path)
    shutil.rmtree(older, ignore_errors=True)  # A dead process may have had this number.
    if path.exists():
        _check_nothing_lost(path, temporary)
        os.replace(path, older)
    try:
        os.replace(temporary, path)
    except OSError:
        if older.exists():
            os.replace(older, path)
        raise
    _sync(path.parent)
    shutil.rmtree(older, ignore_errors=True)


def _check_nothing_lost(path: Path, temporary: Path) -> None:
    """Raise InputError if `path` holds a file that the folder in its place would not have."""
    kept = {_SNAKEMAKE, *(file.name for file in temporary.iterdir())}
    lost = sorted({file.name for file in path.iterdir()} - kept)
    if lost:
        raise InputError(f"{path}: {lost[0]} is in it, and would be lost", "name a new folder, or move the file away")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success mark `folder` and move each file into it, over older ones.

    Raises InputError, and moves nothing, if an older file is not known to be this program's."""
    folder = folder.resolve()
    temporary = _temporary(folder)
    temporary.mkdir()
    try:
        yield temporary
        files = [file for file in temporary.rglob("*") if file.is_file()]
        places = {file: folder / file.relative_to(temporary) for file in files}
        check_ours(folder, *places.values())
        check_writable(*places.values())
        for file, place in places.items():
            _sync(file)
            place.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        mark(folder)
        for file, place in places.items():
            os.replace(file, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_with(folder: Path) -> Iterator[None]:
    """Remove a folder that was just written if the block fails: without the record beside it, it proves nothing."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_replaceable(path: Path) -> None:
    """Raise InputError unless `path` is free, an empty folder, or a folder that this program wrote."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: a file is in its place", "name a new folder")
    if path.is_dir() and not is_marked(path) and any(path.iterdir()):
        raise InputError(
            f"{path}: a folder with other files, which would be lost",
            "name a new folder, or delete this one if its files are not needed",
        )


def check_ours(folder: Path, *places: Path) -> None:
    """Raise InputError if one of the `places` in `folder` holds a file that is not known to be this program's."""
    taken = [] if is_marked(folder) else [place for place in places if place.exists()]
    if taken:
        raise InputError(
            f"{taken[0]}: a file that would be lost", "name another folder, or delete the file if it is not needed"
        )


def adopt(folder: Path) -> None:
    """Mark a model folder that version 0.1.0 prepared, which left no marker but a manifest.json with these keys."""
    manifest = folder / "manifest.json"
    if is_marked(folder) or not manifest.is_file():
        return
    # A manifest that cannot be read is not ours. A folder that cannot be written cannot be replaced either.
    with suppress(InputError, OSError):
        if {"format_version", "source", "digest"} <= read_json(manifest).keys():
            mark(folder)


def is_marked(folder: Path) -> bool:
    """Return whether this program wrote the folder."""
    return (folder / MARKER).is_file()


def mark(folder: Path) -> None:
    """Write the marker of this program's folders."""
    (folder / MARKER).write_text(_MARKED)


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
        holder = _holder(file) or "another process"
        print(f"{path} is being written by {holder}, left by a killed command perhaps: waiting for its end",
              file=sys.stderr, flush=True)  # fmt: skip
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        print(f"warning: {path.parent}: this file system has no locks ({error.strerror}): end what a killed command"
              " left behind by hand", file=sys.stderr, flush=True)  # fmt: skip


def _holder(file: TextIO) -> str:
    """Return what a lock's file says of its holder, which writes that a moment after it has the lock; empty if it never does."""
    for _ in range(10):
        file.seek(0)
        if text := file.read():
            return text
        time.sleep(0.1)
    return ""


def _release(lock: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child
        lock.unlink(missing_ok=True)


def write_json(path: Path | str, content: object) -> None:
    """Write `content` as indented JSON, atomically; not-a-number is refused, JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def check_regular(path: Path | str, limit: int | None = None) -> None:
    """Raise InputError unless `path` is a regular file of at most `limit` bytes. A missing file raises FileNotFoundError.

    A pipe would be waited for without end, and a device such as /dev/zero would fill the memory."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file", "put the file itself there: no folder, pipe or device is read")
    if limit is not None and status.st_size > limit:
        raise InputError(f"{path}: {status.st_size} bytes, at most {limit} are read", "check that it is the right file")


def read_bytes(path: Path | str, limit: int = JSON_LIMIT) -> bytes:
    """Return the content of a regular file. Raises InputError as `check_regular` does."""
    check_regular(path, limit)
    return Path(path).read_bytes()


def read_text(path: Path | str, limit: int, mend: str) -> str:
    """Return the text of a regular file. Raises InputError if it is missing, not UTF-8, or larger than `limit` bytes."""
    try:
        return read_bytes(path, limit).decode()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", mend) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text", mend) from None


def read_json(path: Path | str, mend: str = "run the step that writes it again") -> dict:
    """Return the object of a JSON file. Raises InputError if the file is missing or holds something else."""
    return parse_json(read_text(path, JSON_LIMIT, mend), path, mend)


def parse_json(text: str, path: Path | str, mend: str) -> dict:
    """Return the object of the content of the JSON file `path`. Raises InputError if it is something else."""
    try:
        content = json.loads(text)
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
    """Return the hexadecimal sha256 of a regular file's bytes."""
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """Return the sha256 of the UTF-8 file that `text` was read from, without reading it again.

    Strict UTF-8 has one encoding per text, so these are the file's bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def adapter_digest(folder: Path) -> str:
    """Return the digest of an adapter folder as it is now."""
    return joint_digest(sha256(folder / WEIGHTS), sha256(folder / ADAPTER_CONFIG))


def joint_digest(weights: str, configuration: str) -> str:
    """Return the digest of an adapter: the sha256 over those of its two files. The configuration holds r and alpha."""
    return hashlib.sha256(f"{weights}\n{configuration}".encode()).hexdigest()


def _temporary(path: Path) -> Path:
    """Return a name beside `path` for this process. What a killed process left there is put back, or removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _put_back(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if _is_of_dead_process(left):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if own.exists():  # of a dead process that had this number
        shutil.rmtree(own) if own.is_dir() else own.unlink()
    return own


def _put_back(path: Path) -> None:
    """Rename the folder that a process moved aside back to `path`, if the process was killed before the new one was there."""
    if path.exists():
        return
    # Process numbers return, so that this process may have the number of the dead one.
    left = [
        older
        for older in path.parent.glob(f".{glob.escape(path.name)}.old.*.tmp")
        if is_marked(older) and (_is_of_dead_process(older) or older == _aside(path))
    ]
    if left:
        os.replace(max(left, key=lambda older: older.stat().st_mtime_ns), path)


def _aside(path: Path) -> Path:
    """Return the name under which this process keeps an older folder while it puts a new one in the place of `path`."""
    return path.with_name(f".{path.name}.old.{os.getpid()}.tmp")


def _is_of_dead_process(temporary: Path) -> bool:
    """Return whether the process that a temporary name ends with has ended; False where the system has no /proc."""
    owner = temporary.name.split(".")[-2]
    return owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
