"""Check where this program may write: it never replaces or deletes a file or folder of somebody else.

A folder that this program wrote holds the hidden file `.sparseft`, which says what kind of files they are. If the
folder is replaced whole, the marker also lists its files. Whatever is not in this list is the user's, and so is a
listed file that was edited. A script calls one of these checks for each output, before its long work begins:

    one file, which the user names        check_file
    a folder, which is replaced whole     check_replaceable
    files in a folder with other files    check_ours
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.locks import hold

# Hidden, so that no reader of a model or an adapter takes it for content.
MARKER = ".sparseft"
_MARKER_TEXT = "SparseFT wrote this folder ({kind}), and replaces what it wrote here when it makes it again.\n"
# What Snakemake puts into a folder that a job has made. It is nobody's work.
_OF_SNAKEMAKE = ".snakemake_timestamp"
# A listed file is known by its size and its first bytes, because a hash of a model would take longer than writing it.
_HEAD = 1 << 20


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path | str | None]) -> None:
    """Raise InputError if an output is one of the inputs, or lies inside an input folder. None stands for no input."""
    sources = [Path(path).resolve() for path in inputs if path]
    for output in outputs:
        place = output.resolve()
        if any(source in (place, *place.parents) for source in sources):
            raise InputError(f"{output} is an input, or lies in one", "name another place")


def check_writable(*paths: Path) -> None:
    """Raise InputError if no file can be written to one of the places. An older file may be there."""
    for place in (path.resolve() for path in paths):
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
    if path.exists() and not path.read_bytes().startswith(head.encode()):
        raise InputError(
            f"{path}: a file of another kind, which would be lost",
            "name another file, or delete this one if it is not needed",
        )


def check_replaceable(folder: Path, kind: str) -> None:
    """Raise InputError unless the place is free, an empty folder, or one of this kind as this program wrote it."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not is_marked(folder, kind):
        raise InputError(
            f"{folder}: it holds other files, which would be lost",
            "name a new folder, or delete this one if its files are not needed",
        )
    listed = (folder / MARKER).read_text(errors="replace").splitlines()
    lost = sorted(name for name, line in _listing(folder).items() if line not in listed)
    if lost:
        raise InputError(
            f"{folder}: not as this program wrote it, and would be lost: {', '.join(lost[:9])} ({len(lost)} files)",
            "move them out of the folder, or delete it if they are not needed",
        )


def claim_folder(folder: Path, kind: str, inputs: Iterable[Path | None] = ()) -> None:
    """Hold the place of a folder. Raises InputError if it is an input or in one, or if it holds other files."""
    check_apart([folder], inputs)
    check_replaceable(folder, kind)
    hold(folder)


def check_ours(folder: Path, kind: str, *files: Path, inputs: Iterable[Path | str | None] = ()) -> None:
    """Raise InputError if one of the `files` in `folder` exists and may be somebody else's, or cannot be written.

    Also raises it if the folder is one of the `inputs`, or lies in one."""
    check_writable(*files)
    existing = [file for file in (*files, folder / MARKER) if file.exists()]
    if existing and not is_marked(folder, kind):
        raise InputError(
            f"{existing[0]}: a file that would be lost", "name another folder, or delete the file if it is not needed"
        )
    check_apart([folder], inputs)


def is_marked(folder: Path, kind: str) -> bool:
    """Return whether this program wrote the folder, and files of this kind into it."""
    marker = folder / MARKER
    return marker.is_file() and marker.read_bytes().startswith(_MARKER_TEXT.format(kind=kind).encode())


def mark(folder: Path, kind: str) -> None:
    """Mark a folder as this program's, with the kind of its files and a list of those that are in it now."""
    lines = sorted(_listing(folder).values())
    (folder / MARKER).write_text(_MARKER_TEXT.format(kind=kind) + "".join(f"{line}\n" for line in lines))


def _listing(folder: Path) -> dict[str, str]:
    """Return the line of each file below a folder, hidden ones too, by its path in the folder: a digest and the
    path."""
    lines = {}
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        if (file.is_dir() and not file.is_symlink()) or name == MARKER or file.name == _OF_SNAKEMAKE:
            continue
        content = str(file.lstat().st_size).encode()
        if file.is_file():
            with open(file, "rb") as stream:
                content += stream.read(_HEAD)
        lines[name] = f"{hashlib.sha256(content).hexdigest()}  {name}"
    return lines
