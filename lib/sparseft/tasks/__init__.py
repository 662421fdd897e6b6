"""The tasks by name, and the reader of their rows.

The real tasks ask as lm-eval asks, so that training and evaluation see the same text; each mini task
shares the prompt, the answer and the fields of its real one and writes its own rows.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.reading import ROWS_LIMIT, read_text
from sparseft.tasks.boolq import BOOLQ
from sparseft.tasks.boolq_mini import BOOLQ_MINI
from sparseft.tasks.gsm8k import GSM8K
from sparseft.tasks.gsm8k_mini import GSM8K_MINI
from sparseft.tasks.hellaswag import HELLASWAG
from sparseft.tasks.hellaswag_mini import HELLASWAG_MINI
from sparseft.tasks.task import Row, Task

TASKS = {task.name: task for task in (BOOLQ, HELLASWAG, GSM8K, BOOLQ_MINI, HELLASWAG_MINI, GSM8K_MINI)}


def get_task(name: str) -> Task:
    """The task called `name`. Raises InputError with the known names."""
    if name not in TASKS:
        raise InputError(f"task {name!r} is unknown", f"choose one of {', '.join(TASKS)}")
    return TASKS[name]


def read_examples(path: Path | str, task: Task) -> list[Row]:
    """Return the task's rows of a .jsonl file, each checked. Raises InputError with the file, the line and the field."""
    return read_rows(path, task.name, task.fields, task.problem)


def read_rows(
    path: Path | str,
    name: str,
    fields: dict[str, type | tuple],
    problem: Callable[[Row], str | None] | None = None,
) -> list[Row]:
    """Return the rows of a .jsonl file, called `name` in errors, each checked by `problem_of`."""
    return parse_rows(read_row_text(path, name, fields), path, name, fields, problem)


def read_row_text(path: Path | str, name: str, fields: Iterable[str]) -> str:
    """Return the text of a .jsonl file. Raises InputError if it is missing, or not UTF-8."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file", "prepare the data, or correct the path")
    return read_text(path, ROWS_LIMIT, _mend(name, fields))


def parse_rows(
    text: str, path: Path | str, name: str, fields: dict[str, type | tuple], problem: Callable[[Row], str | None]
) -> list[Row]:
    """Return the rows of the text of the .jsonl file `path`, each checked by `problem_of`."""
    mend = _mend(name, fields)
    rows = []
    # Not splitlines(), which also cuts at U+2028, a character that JSON allows in a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _parse(line, f"{path}, line {number}", mend)
            if fault := problem_of(row, fields, problem):
                raise InputError(f"{path}, line {number}: {fault}", mend)
            rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no row", mend)
    return rows


def _mend(name: str, fields: Iterable[str]) -> str:
    """Return what a line of a .jsonl file must hold."""
    return f"each line holds one {name} row as JSON: {', '.join(fields)}"


def _parse(line: str, place: str, mend: str) -> object:
    """Return one line's JSON value. Raises InputError with its `place` where it is not JSON, or not text."""
    try:
        value = json.loads(line)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{place}: an escape such as \\ud800 is half a character", "write both halves, or none"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON ({error})", mend) from None
    return value


def problem_of(row: object, fields: dict, problem: Callable[[Row], str | None] | None = None) -> str | None:
    """Return what is wrong with a row, or None: first its fields and their types, then what `problem` finds."""
    if not isinstance(row, dict):
        return "a JSON object is expected"
    for field, kind in fields.items():
        if field not in row:
            return f"field {field!r} is missing"
        # bool is a subclass of int: true is no label
        if not isinstance(row[field], kind) or (isinstance(row[field], bool) and kind is not bool):
            return f"field {field!r} has the wrong type ({type(row[field]).__name__})"
    return problem(row) if problem else None
