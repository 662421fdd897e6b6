"""Check where a stage may write, so that no file of somebody else is lost.

Every stage leaves a record: a file that it writes with its outputs, and that contains a text which no other file has.
Outputs are replaced if the record is there. A script checks them before its long work begins.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from sparseft.common.errors import InputError
from sparseft.storage.locks import hold

# The text is within the first bytes of a record, which may be a file of weights.
_HEAD = 1 << 20


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path | str | None]) -> None:
    """Raise InputError if an output is one of the inputs, or lies inside an input folder. None stands for no input."""
    sources = [Path(path).resolve() for path in inputs if path]
    for output in outputs:
        place = output.resolve()
        if any(source in (place, *place.parents) for source in sources):
            raise InputError(f"{output} is an input, or lies in one", "name another place")


def check_writable(path: Path) -> None:
    """Raise InputError if no file can be written to the place. An older file may be there."""
    place = path.resolve()
    folder = next(parent for parent in place.parents if parent.exists())
    is_other_kind = place.exists() and not place.is_file()
    if is_other_kind or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{place}: no file can be written there", "check the path, its permissions and the free space")


def check_ours(record: Path | None, text: str, *outputs: Path) -> None:
    """Raise InputError if an output, a file or a folder, may be somebody else's.

    It may be if it is there, but not the stage's record with this text. An empty folder may always be
    replaced."""
    if record:
        check_writable(record)
        if record.exists():
            with open(record, "rb") as file:
                if text.encode() in file.read(_HEAD):
                    return
            outputs = (record, *outputs)
    for output in outputs:
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            what = f"{output}: this stage did not write it, and it would be lost"
            raise InputError(what, "name another place, or delete it if it is not needed")


def claim(output: Path, record: Path | None, text: str, inputs: Iterable[Path | None] = ()) -> None:
    """Hold the place of an output. Raises InputError if it is an input, or may be somebody else's."""
    check_apart([output], inputs)
    check_ours(record, text, output)
    hold(output)
