"""Read text and JSON files. An error names the file and says what to do."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sparseft.common.errors import InputError, one_line


def read_text(path: Path | str, advice: str) -> str:
    """Return the text of a file. Raises InputError if it is missing or not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", advice) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text", advice) from None


def read_json(path: Path | str, advice: str = "run the step that writes it again", kind: Any = dict) -> dict:
    """Return the object of a JSON file. Raises InputError if the file is missing or holds something else.

    kind: the type of the object, such as dict[str, list[int]]"""
    return parse_json(read_text(path, advice), path, advice, kind)


def parse_json(text: str, path: Path | str, advice: str, kind: Any = dict) -> dict:
    """Return the object in `text`, the content of the JSON file `path`. Raises InputError if it is something else."""
    try:
        content = json.loads(text)
        TypeAdapter(kind).validate_python(content)
    except ValueError as error:
        raise InputError(f"{path}: not a JSON object of the right kind ({one_line(error)[:200]})", advice) from None
    return content
