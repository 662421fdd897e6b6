"""Read files that anybody may have made: only regular files, and only up to a number of bytes.

A pipe would keep its reader waiting without end, and a device such as /dev/zero would fill the memory.
"""

import json
import os
import stat
from pathlib import Path

from sparseft.errors import InputError

# The most bytes that are read into memory, by kind of file.
JSON_LIMIT = 10**9
TEXT_LIMIT = 4 * 10**9
ROWS_LIMIT = 16 * 10**9


def check_regular(path: Path | str, limit: int | None = None) -> None:
    """Raise InputError unless `path` is a regular file of at most `limit` bytes. A missing file raises FileNotFoundError."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file", "put the file itself there, not a folder, pipe or device")
    if limit is not None and status.st_size > limit:
        raise InputError(
            f"{path}: {status.st_size} bytes, but at most {limit} are read", "check that it is the right file"
        )


def read_bytes(path: Path | str, limit: int = JSON_LIMIT) -> bytes:
    """Return the content of a regular file. Raises InputError as `check_regular` does."""
    check_regular(path, limit)
    return Path(path).read_bytes()


def read_text(path: Path | str, limit: int, advice: str) -> str:
    """Return the text of a regular file. Raises InputError if it is missing, not UTF-8, or larger than `limit` bytes."""
    try:
        return read_bytes(path, limit).decode()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", advice) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text", advice) from None


def read_json(path: Path | str, advice: str = "run the step that writes it again") -> dict:
    """Return the object of a JSON file. Raises InputError if the file is missing or holds something else."""
    return parse_json(read_text(path, JSON_LIMIT, advice), path, advice)


def parse_json(text: str, path: Path | str, advice: str) -> dict:
    """Return the object in `text`, the content of the JSON file `path`. Raises InputError if it is something else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})", advice) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object", advice)
    return content
