"""Read and write the rows of .jsonl files, one JSON object per line."""

import json
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sparseft.axes.tasks.task import Row, RowFormat
from sparseft.common.errors import InputError


def read_rows(path: Path, row_format: RowFormat) -> list[Row]:
    """Return the rows of a .jsonl file. Raises InputError as `each_row` does, or if there is no row."""
    rows = list(each_row(path, row_format))
    if not rows:
        raise InputError(f"{path}: holds no row", _remedy(row_format))
    return rows


def each_row(path: Path, row_format: RowFormat) -> Iterator[Row]:
    """Yield the rows of a .jsonl file one by one, because a large text would be in memory twice.

    Raises InputError with the line and the field if a row does not have the format."""
    # Lines of bytes end only at line feeds, because JSON allows other line ends such as U+2028 in a string.
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parsed(line, f"{path}, line {number}", row_format)


def as_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of a .jsonl file."""
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a .jsonl file."""
    path.write_text("".join(as_lines(rows)), encoding="utf-8")


def checked_row(row: Any, row_format: RowFormat, place: str, advice: str) -> Row:
    """Return a row in this project's fields. Raises InputError with its `place` if it does not have the format."""
    if isinstance(row, dict):
        row = row_format.converted(row)
    if problem := _problem(row, row_format):
        raise InputError(f"{place}: {problem}", advice)
    return row


def _problem(row: object, row_format: RowFormat) -> str | None:
    """Return the first thing that is wrong with a row, or None."""
    if not isinstance(row, dict):
        return "a JSON object is expected"
    for field, types in row_format.fields.items():
        if field not in row:
            return ", and the nearest is ".join([f"field {field!r} is missing", *get_close_matches(field, row, 1)])
        # bool is a subclass of int, but true is not a label.
        is_wrong_bool = isinstance(row[field], bool) and types is not bool
        if is_wrong_bool or not isinstance(row[field], types):
            return f"field {field!r} has the wrong type ({type(row[field]).__name__})"
    for field in row_format.filled:
        if not row[field].strip():
            return f"field {field!r} is empty"
    return row_format.problem(row)


def _parsed(line: bytes, place: str, row_format: RowFormat) -> Row:
    """Return the row of one line. Raises InputError with its `place` if it is not JSON in UTF-8, or does not have the
    format."""
    try:
        row = json.loads(line.decode())
        # Fails if an escape such as \ud800 stands for half a character.
        json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON ({error})", _remedy(row_format)) from None
    return checked_row(row, row_format, place, _remedy(row_format))


def _remedy(row_format: RowFormat) -> str:
    """Return what every line of a file must hold."""
    names = ", ".join(row_format.fields) or "of the original data set"
    return f"write one {row_format.name!r} row per line as JSON, with the fields {names}"
