"""Check where this program may write: it never replaces or deletes a file or folder of somebody else.

A folder that this program wrote holds the hidden file `.sparseft`. Only such a folder, an empty one or a free place is
written to. There are three kinds of output, and a check for each one. A script calls it before its long work begins:

    one file, which the user names        check_writable
    a folder, which is replaced whole     check_replaceable
    files in a folder with other files    check_ours
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.reading import read_json

# Hidden, so that no reader of a model or an adapter takes it for content.
MARKER = ".sparseft"
_MARKER_TEXT = "SparseFT wrote this folder, and replaces what it wrote here when it makes it again.\n"


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Raise InputError if an output is one of the inputs, or lies inside an input folder. None stands for no input."""
    sources = [path.resolve() for path in inputs if path]
    for output in outputs:
        place = output.resolve()
        if any(source in (place, *place.parents) for source in sources):
            raise InputError(f"{output} is an input, or lies in one", "name another place")


def check_writable(*paths: Path | str) -> None:
    """Raise InputError if no file can be written to one of the places. An older file may be there.

    A device or a pipe is refused, because the file would replace it."""
    for place in (Path(path).resolve() for path in paths):
        folder = next(parent for parent in place.parents if parent.exists())
        is_other_kind = place.exists() and not place.is_file()
        if is_other_kind or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"{place}: no file can be written there", "check the path, its permissions and the free space"
            )


def check_replaceable(folder: Path) -> None:
    """Raise InputError unless the place is free, an empty folder, or a folder that this program wrote."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file is in its place", "name a new folder")
    if folder.is_dir() and not is_marked(folder) and any(folder.iterdir()):
        raise InputError(
            f"{folder}: a folder with other files, which would be lost",
            "name a new folder, or delete this one if its files are not needed",
        )


def check_ours(folder: Path, *files: Path) -> None:
    """Raise InputError if one of the `files` in `folder` exists and may be somebody else's, or cannot be written."""
    check_writable(*files)
    existing = [file for file in files if file.exists()]
    if existing and not is_marked(folder):
        raise InputError(
            f"{existing[0]}: a file that would be lost", "name another folder, or delete the file if it is not needed"
        )


def is_marked(folder: Path) -> bool:
    """Return whether this program wrote the folder."""
    return (folder / MARKER).is_file()


def mark(folder: Path) -> None:
    """Mark a folder as this program's."""
    (folder / MARKER).write_text(_MARKER_TEXT)


def adopt(folder: Path) -> None:
    """Mark a model folder that version 0.1.0 prepared. That version left a manifest.json with these keys and no marker."""
    manifest = folder / "manifest.json"
    if is_marked(folder) or not manifest.is_file():
        return
    # A manifest that cannot be read is not ours. A folder that cannot be written cannot be replaced either.
    with suppress(InputError, OSError):
        if {"format_version", "source", "digest"} <= read_json(manifest).keys():
            mark(folder)
