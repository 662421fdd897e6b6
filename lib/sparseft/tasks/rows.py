"""Read the rows of .jsonl files, one JSON object per line, and the documents of texts; write a text with its source beside it.

A text is a .jsonl file with one document per row in the field `text`, or a .txt file, which is one document. A prepared text
has FILE.json beside it, with the text's sha256 and where it comes from. A text of windows also has the token ids of each row, and
the file beside it names the model whose ids they are.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.atomic import atomic_files, write_json
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours
from sparseft.storage.reading import read_json, read_text
from sparseft.tasks.task import Row, RowFormat

DOCUMENT = RowFormat(
    name="document",
    fields={"text": str},
    converted=lambda row: {"text": row["text"]} if "text" in row else row,
)
# A row of a text whose rows are windows. The loss of one starts at the token `answer_start`.
WINDOW = RowFormat(name="window", fields={"text": str, "ids": list, "answer_start": int})
# The key of the source of such a text that has the digest of the model.
MODEL = "model"
# What stands between two documents of a text.
DOCUMENT_BREAK = "\n\n"


def read_rows(path: Path | str, row_format: RowFormat) -> list[Row]:
    """Return the rows of a .jsonl file. Raises InputError as `each_row` does, or if there is no row."""
    rows = list(each_row(path, row_format))
    if not rows:
        raise InputError(f"{path}: holds no row", _remedy(row_format))
    return rows


def each_row(path: Path | str, row_format: RowFormat) -> Iterator[Row]:
    """Yield the rows of a .jsonl file one by one, because a large text would be in memory twice.

    Raises InputError if the file is missing or not UTF-8, and with the line and the field if a row does not have the format."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file", "prepare the data, or correct the path")
    # Only at line feeds, because JSON allows other line ends such as U+2028 in a string.
    with open(path, encoding="utf-8", newline="\n") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _parsed(line, f"{path}, line {number}", row_format)
        except UnicodeDecodeError:
            raise InputError(f"{path}: not UTF-8 text", "convert the file") from None


def as_lines(rows: list[Row]) -> str:
    """Return the text of a .jsonl file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write a .jsonl file."""
    path.write_text(as_lines(rows), encoding="utf-8")


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
    for field in row_format.filled:
        if not row[field].strip():
            return f"field {field!r} is empty"
    return row_format.problem(row)


def read_documents(path: Path) -> tuple[list[str], str]:
    """Return the documents of a file, and its sha256. Raises InputError as `each_document` does, or if there is none."""
    documents = list(each_document(path))
    if not documents:
        raise InputError(f"{path}: holds no row", "write one document per line as JSON, with the field text")
    return documents, sha256(path)


def each_document(path: Path) -> Iterator[str]:
    """Yield the documents of a file one by one.

    Raises InputError if it cannot be read or begins with a byte order mark, or if a row of a .jsonl file has no text."""
    if path.suffix != ".txt":
        yield from (row["text"] for row in each_row(path, DOCUMENT))
        return
    text = read_text(path, "prepare the text, or correct the path")
    if text.startswith("\ufeff"):
        raise InputError(f"{path}: begins with a byte order mark", "save the file as UTF-8 without it (BOM)")
    yield text


def claim_text(output: Path, inputs: Iterable[Path | None], *, as_rows: bool = True) -> None:
    """Hold the place of a prepared text. Raises InputError if it would replace an input or a file of somebody else.

    With `as_rows`, raise it too if the name does not end in .jsonl."""
    if as_rows and output.suffix != ".jsonl":
        raise InputError(f"--output {output}: not a .jsonl file", "write its name with .jsonl at the end")
    outputs = [output, source_file(output)]
    check_ours(output.parent, "text", *outputs)
    check_apart(outputs, inputs)
    hold(output)


def write_source_text(path: Path, parts: Iterable[str], source: dict) -> None:
    """Write a text in parts, and its source beside it. Both files appear, or none."""
    with atomic_files(path.parent, path.name, "text") as folder:
        text_file = folder / path.name
        with open(text_file, "wb") as file:
            file.writelines(part.encode() for part in parts)
        write_json(folder / source_file(path).name, {"source": source, "sha256": sha256(text_file)})


def recorded_source(path: Path, digest: str) -> dict | None:
    """Return the source of a text whose sha256 is `digest`, from the file beside it; None without that file.

    Raises InputError if that file describes another text."""
    if not source_file(path).is_file():
        return None
    remedy = f"prepare it again, or remove {source_file(path)}"
    recorded = read_json(source_file(path), remedy)
    if recorded.get("sha256") != digest:
        raise InputError(f"{path}: not the text that {source_file(path)} describes", remedy)
    return recorded.get("source")


def has_windows(path: Path) -> bool:
    """Return whether a text is one of windows, by the file beside it."""
    source = read_json(source_file(path)).get("source") if source_file(path).is_file() else None
    return MODEL in (source or {})


def source_file(path: Path) -> Path:
    """Return the place of a text's source, beside the text."""
    return Path(f"{path}.json")


def _parsed(line: str, place: str, row_format: RowFormat) -> Row:
    """Return the row of one line. Raises InputError with its `place` if it is not JSON or does not have the format."""
    try:
        row = json.loads(line)
        # Fails if an escape such as \ud800 stands for half a character.
        json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON ({error})", _remedy(row_format)) from None
    if isinstance(row, dict):
        row = row_format.converted(row)
    if problem := problem_of(row, row_format):
        raise InputError(f"{place}: {problem}", _remedy(row_format))
    return row


def _remedy(row_format: RowFormat) -> str:
    """Return what every line of a file must hold."""
    names = ", ".join(row_format.fields) or "of the original data set"
    return f"write one {row_format.name!r} row per line as JSON, with the fields {names}"
