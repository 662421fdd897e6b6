"""Read the rows of .jsonl files: one JSON object per line, each checked."""

import json
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.reading import read_text
from sparseft.tasks.task import Row, RowFormat


def read_rows(path: Path | str, row_format: RowFormat) -> list[Row]:
    """Return the rows of a .jsonl file.

    Raises InputError with the file, the line and the field if a row does not have the format."""
    return parse_rows(read_row_text(path, row_format), path, row_format)


def read_row_text(path: Path | str, row_format: RowFormat) -> str:
    """Return the text of a .jsonl file. Raises InputError if it is missing or not UTF-8."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file", "prepare the data, or correct the path")
    return read_text(path, _remedy(row_format))


def parse_rows(text: str, path: Path | str, row_format: RowFormat) -> list[Row]:
    """Return the rows of `text`, which was read from the .jsonl file `path`. Raises InputError as `read_rows` does."""
    rows = []
    # splitlines() would also cut at U+2028, a character that JSON allows in a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(parse_row(line, f"{path}, line {number}", row_format))
    if not rows:
        raise InputError(f"{path}: holds no row", _remedy(row_format))
    return rows


def problem_of(row: object, row_format: RowFormat) -> str | None:
    """Return the first thing that is wrong with a row, or None."""
    if not isinstance(row, dict):
        return "a JSON object is expected"
    for field, types in row_format.fields.items():
        if field not in row:
            return f"field {field!r} is missing"
        # bool is a subclass of int, but true is not a label.
        is_wrong_bool = isinstance(row[field], bool) and types is not bool
        if is_wrong_bool or not isinstance(row[field], types):
            return f"field {field!r} has the wrong type ({type(row[field]).__name__})"
    return row_format.problem(row) if row_format.problem else None


def parse_row(line: str, place: str, row_format: RowFormat) -> Row:
    """Return the row of one line. Raises InputError with its `place` if it is not JSON or does not have the format."""
    try:
        row = json.loads(line)
        # Fails if an escape such as \ud800 stands for half a character.
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{place}: an escape such as \\ud800 is half a character", "write both halves, or none"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON ({error})", _remedy(row_format)) from None
    if problem := problem_of(row, row_format):
        raise InputError(f"{place}: {problem}", _remedy(row_format))
    return row


def _remedy(row_format: RowFormat) -> str:
    """Return what every line of a file must hold."""
    if row_format.advice:
        return row_format.advice
    names = ", ".join(row_format.fields) or "of the original data set"
    return f"write one {row_format.name!r} row per line as JSON, with the fields {names}"
