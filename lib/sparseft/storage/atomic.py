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

from sparseft.common.errors import naming
from sparseft.storage.outputs import check_ours, check_writable


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
def atomic_folder(path: Path, record: Path | str = "", text: str = "") -> Iterator[Path]:
    """Yield a temporary folder beside `path`. If the block succeeds, it is renamed to `path`. If not, it is removed.

    An older folder is replaced if `record`, a file in it or a path, contains the text (outputs.py). Without a record
    the folder must be new or empty. Raises InputError, and changes nothing, if it is not."""
    path = path.resolve()
    temporary = _temporary(path)
    older = path.with_name(f".{path.name}.old.{os.getpid()}.tmp")
    try:
        with naming(path, temporary):
            temporary.mkdir()
            check_ours(path / record if record else None, text, path)
            is_ours = any(path.iterdir()) if path.exists() else False
            yield temporary
            for file in temporary.rglob("*"):
                _sync(file)
            # The older folder is moved aside first, so that `path` never holds files of both.
            if is_ours:
                os.replace(path, older)
            # This fails if somebody has put a file into an empty folder meanwhile.
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        if older.exists() and not path.exists():
            os.replace(older, path)
        shutil.rmtree(older, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_files(record: Path, text: str) -> Iterator[Path]:
    """Yield a temporary folder beside a stage's record. If the block succeeds, its files replace those of the same
    names beside the record.

    Processes with other records may write to the folder at the same time. Raises InputError, and moves nothing, if an
    older file may be somebody else's: if it is there, but not the record with this text (outputs.py)."""
    record = record.resolve()
    folder = record.parent
    is_new = not folder.exists()
    temporary = _temporary(record)
    try:
        with naming(folder, temporary):
            temporary.mkdir()
            yield temporary
            files = [file for file in temporary.rglob("*") if file.is_file()]
            # The record is moved first. If the process is killed, the files that it has moved still count as its own.
            files.sort(key=lambda file: file.name != record.name)
            places = [folder / file.relative_to(temporary) for file in files]
            check_ours(record, text, *places)
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
