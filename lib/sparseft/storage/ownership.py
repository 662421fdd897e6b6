"""Check where this program may write: it never replaces or deletes a file or folder of somebody else.

A folder that this program wrote holds the hidden file `.sparseft`, which says what kind of files they are. A command writes
only to such a folder of its own kind, to an empty one or to a free place. There are three kinds of output, and a check for
each one. A script calls it before its long work begins:

    one file, which the user names        check_file
    a folder, which is replaced whole     check_replaceable
    files in a folder with other files    check_ours
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.reading import read_json, read_text

# Hidden, so that no reader of a model or an adapter takes it for content.
MARKER = ".sparseft"
_MARKER_TEXT = "SparseFT wrote this folder ({kind}), and replaces what it wrote here when it makes it again.\n"
# An earlier version wrote this text into every folder. It counts as any kind.
_ANY_KIND = "SparseFT wrote this folder, and replaces what it wrote here when it makes it again.\n"
_MARKER_LIMIT = 1000


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


def check_file(path: Path, head: str) -> None:
    """Raise InputError if no file can be written to `path`, or if a file is there that does not begin with `head`.

    All files of a kind begin with the same text, and no others do."""
    check_writable(path)
    if path.exists():
        with open(path, "rb") as file:
            is_ours = file.read(len(head.encode())) == head.encode()
        if not is_ours:
            raise InputError(
                f"{path}: a file of another kind, which would be lost",
                "name another file, or delete this one if it is not needed",
            )


def check_replaceable(folder: Path, kind: str) -> None:
    """Raise InputError unless the place is free, an empty folder, or a folder of this kind that this program wrote."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file is in its place", "name a new folder")
    if folder.is_dir() and not is_marked(folder, kind) and any(folder.iterdir()):
        raise InputError(
            f"{folder}: a folder with other files, which would be lost",
            "name a new folder, or delete this one if its files are not needed",
        )


def check_ours(folder: Path, kind: str, *files: Path) -> None:
    """Raise InputError if one of the `files` in `folder` exists and may be somebody else's, or cannot be written.

    Raise it too if the folder is marked as another kind."""
    check_writable(*files)
    existing = [file for file in (*files, folder / MARKER) if file.exists()]
    if existing and not is_marked(folder, kind):
        raise InputError(
            f"{existing[0]}: a file that would be lost", "name another folder, or delete the file if it is not needed"
        )


def is_marked(folder: Path, kind: str) -> bool:
    """Return whether this program wrote the folder, and files of this kind into it."""
    marker = folder / MARKER
    advice = "remove it if SparseFT did not write this folder"
    return marker.is_file() and read_text(marker, _MARKER_LIMIT, advice) in (_MARKER_TEXT.format(kind=kind), _ANY_KIND)


def mark(folder: Path, kind: str) -> None:
    """Mark a folder as this program's, with the kind of its files."""
    (folder / MARKER).write_text(_MARKER_TEXT.format(kind=kind))


def adopt(folder: Path) -> None:
    """Mark a model folder that version 0.1.0 prepared. That version left a manifest.json with these keys and no marker."""
    manifest = folder / "manifest.json"
    if (folder / MARKER).exists() or not manifest.is_file():
        return
    # A manifest that cannot be read is not ours. A folder that cannot be written cannot be replaced either.
    with suppress(InputError, OSError):
        if {"format_version", "source", "digest"} <= read_json(manifest).keys():
            mark(folder, "model")
