"""What an earlier analysis left in the folder and this one does not write: a stale figure beside new tables is a lie."""

from collections.abc import Collection
from pathlib import Path

MARK = "SparseFT analysis"  # in the metadata of every figure: nobody else's file is removed
HEAD = 4096  # bytes of a file in which the mark stands


def remove_leftovers(folder: Path, written: Collection[str]) -> None:
    """Remove the figures in `folder` that bear the mark and are not among the names `written`."""
    for path in sorted(folder.glob("*.*")):
        if path.is_file() and path.suffix in (".png", ".svg") and path.name not in written and _is_ours(path):
            path.unlink()


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK.encode() in file.read(HEAD)
