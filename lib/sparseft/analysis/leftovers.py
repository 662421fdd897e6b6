"""Remove the figures that an earlier analysis left in the folder, because they would contradict the new tables."""

from collections.abc import Collection
from pathlib import Path

# It stands in the metadata of every figure, so that no other program's file is removed.
MARK = "SparseFT analysis"
# The mark stands in the first bytes of a file.
HEAD_BYTES = 4096


def remove_leftovers(folder: Path, written: Collection[str]) -> None:
    """Remove the figures in `folder` that have the mark and are not among the names `written`."""
    for path in sorted(folder.glob("*.*")):
        if path.is_file() and path.suffix in (".png", ".svg") and path.name not in written and _is_ours(path):
            path.unlink()


def _is_ours(path: Path) -> bool:
    """Return whether an analysis of this project drew a figure."""
    with path.open("rb") as file:
        return MARK.encode() in file.read(HEAD_BYTES)
