"""Write files and folders that are either whole or absent.

Everything is written under a temporary name, synced to the disk, and then renamed. So after a full disk, an error or a
kill, no file is incomplete. The temporary name `.NAME.PID.tmp` contains the number of the process. The next process
that writes NAME removes what a killed process left.

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

from sparseft.errors import naming
from sparseft.storage.ownership import MARKER, check_ours, check_replaceable, check_writable, mark


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. If the block succeeds, the file is renamed to `path`. If not, it is
    removed."""
    path = path.resolve()
    check_writable(path)
    temporary = _temporary(path)
    try:
        with naming(path, temporary):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write `content` as an indented JSON file, atomically. NaN and infinity raise ValueError, because JSON has
    none."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text)


@contextmanager
def atomic_folder(path: Path, kind: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`. If the block succeeds, it is marked and renamed to `path`. If not, it is
    removed.

    `kind` is the kind of its files. Raises InputError, and changes nothing, if `path` holds files of another kind, or a
    file that is not as this program wrote it."""
    path = path.resolve()
    temporary = _temporary(path)
    older = path.with_name(f".{path.name}.old.{os.getpid()}.tmp")
    try:
        with naming(path, temporary):
            temporary.mkdir()
            check_replaceable(path, kind)
            yield temporary
            mark(temporary, kind)
            for file in temporary.rglob("*"):
                _sync(file)
            # A user may have put a file into the older folder meanwhile.
            check_replaceable(path, kind)
            # The older folder is moved aside first, so that `path` never holds files of both.
            if path.exists():
                os.replace(path, older)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        if older.exists() and not path.exists():
            os.replace(older, path)
        shutil.rmtree(older, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_files(folder: Path, held: str, kind: str) -> Iterator[Path]:
    """Yield a temporary folder in `folder`. If the block succeeds, its files replace those of the same names in
    `folder`.

    `held` is the name of an output that only this process writes. Processes with other names may write to `folder` at
    the same time, if `kind`, the kind of the files, is the same. `folder` is marked. Raises InputError, and moves
    nothing, if an older file may be somebody else's or of another kind."""
    folder = folder.resolve()
    is_new = not folder.exists()
    temporary = _temporary(folder / held)
    try:
        with naming(folder, temporary):
            temporary.mkdir()
            # It is written first, so that nothing is written any more when the block has ended.
            mark(temporary, kind)
            yield temporary
            files = [file for file in temporary.rglob("*") if file.is_file()]
            # The marker is moved first. If the process is killed, the files that it has moved still count as this
            # program's.
            files.sort(key=lambda file: file.name != MARKER)
            places = [folder / file.relative_to(temporary) for file in files]
            check_ours(folder, kind, *places)
            for file, place in zip(files, places, strict=True):
                _sync(file)
                place.parent.mkdir(parents=True, exist_ok=True)
            for file, place in zip(files, places, strict=True):
                os.replace(file, place)
            for parent in {place.parent for place in places}:
                _sync(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            # If the block failed, the new folder is empty and is removed. Otherwise it is not empty, and rmdir fails.
            with suppress(OSError):
                folder.rmdir()


def _temporary(path: Path) -> Path:
    """Remove what killed processes left for `path`, and return the temporary name of this process, which is free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        owner = leftover.name.split(".")[-2]
        # The system uses the numbers of dead processes again, so this process may have the number of a dead one.
        if owner == str(os.getpid()) or not Path(f"/proc/{owner}").exists():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
