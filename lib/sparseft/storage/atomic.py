"""Write files and folders that are either whole or absent.

Everything is written under a temporary name, synced to the disk, and then renamed. So a full disk, an error or a kill
leaves no half of a file in its place. The temporary name `.NAME.PID.tmp` ends with the number of the process. What a
killed process left is removed by the next one that writes NAME.

    atomic_file     one file
    atomic_folder   a whole folder, which replaces an older one
    atomic_files    several files in a folder, which may hold other files
"""

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.ownership import MARKER, check_ours, check_replaceable, check_writable, is_marked, mark

# Snakemake leaves it in every folder that is an output.
_SNAKEMAKE = ".snakemake_timestamp"


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`. The file there becomes `path` if the block succeeds, and is removed if not."""
    path = Path(path).resolve()
    check_writable(path)
    temporary = _temporary(path)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, content: object) -> None:
    """Write `content` as an indented JSON file, atomically. NaN and infinity raise ValueError, because JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`. It is marked and becomes `path` if the block succeeds, and is removed if not.

    Raises InputError, and changes nothing, if `path` holds a file that this program did not write."""
    path = Path(path).resolve()
    check_replaceable(path)
    _put_back(path)
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


@contextmanager
def atomic_files(folder: Path, held: str) -> Iterator[Path]:
    """Yield a temporary folder in `folder`. Its files are moved into `folder` if the block succeeds, over older ones.

    `held` is the output that this process holds, so that processes with other outputs may write to `folder` too.
    Raises InputError, and moves nothing, if an older file may be somebody else's. `folder` is marked."""
    folder = folder.resolve()
    is_new = not folder.exists()
    temporary = _temporary(folder / held)
    temporary.mkdir()
    try:
        yield temporary
        mark(temporary)
        _move_files(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            # It is removed if it is still empty, because the block failed.
            with suppress(OSError):
                folder.rmdir()


def _move_files(temporary: Path, folder: Path) -> None:
    """Move all files below `temporary` to the same places below `folder`."""
    files = [file for file in temporary.rglob("*") if file.is_file()]
    # The marker goes first. Without it, what a killed process has moved would count as somebody else's.
    files.sort(key=lambda file: file.name != MARKER)
    places = [folder / file.relative_to(temporary) for file in files]
    check_ours(folder, *places)
    for file, place in zip(files, places, strict=True):
        _sync(file)
        place.parent.mkdir(parents=True, exist_ok=True)
    for file, place in zip(files, places, strict=True):
        os.replace(file, place)
    for parent in {place.parent for place in places}:
        _sync(parent)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Put a folder in the place of `path`. The older one is moved aside first, so that `path` is never a mix of both."""
    check_replaceable(path)
    older = _aside(path)
    # A dead process may have had the number of this one.
    shutil.rmtree(older, ignore_errors=True)
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


def _put_back(path: Path) -> None:
    """Rename the older folder back to `path` if a process was killed after it moved that folder aside."""
    if path.exists():
        return
    # Process numbers return, so this process may have the number of the dead one.
    older_folders = [
        older
        for older in path.parent.glob(f".{glob.escape(path.name)}.old.*.tmp")
        if is_marked(older) and (_is_of_dead_process(older) or older == _aside(path))
    ]
    if older_folders:
        newest = max(older_folders, key=lambda older: older.stat().st_mtime_ns)
        os.replace(newest, path)


def _aside(path: Path) -> Path:
    """Return the name under which this process keeps an older folder while it puts a new one in the place of `path`."""
    return path.with_name(f".{path.name}.old.{os.getpid()}.tmp")


def _temporary(path: Path) -> Path:
    """Return the temporary name of this process for `path`, which is free. Remove what killed processes left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        # A dead process may have had the number of this one.
        if leftover == own or _is_of_dead_process(leftover):
            _remove(leftover)
    return own


def _is_of_dead_process(temporary: Path) -> bool:
    """Return whether the process that a temporary name ends with has ended. False if the system has no /proc."""
    owner = temporary.name.split(".")[-2]
    return owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists()


def _remove(path: Path) -> None:
    """Remove a file or a folder. Another process may have removed the file already."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
