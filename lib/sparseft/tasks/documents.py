"""Read the documents of a text, and write a text with its source beside it.

A text is a .jsonl file with one document per row in the field `text`, or a .txt file, which is one document. A prepared text has FILE.json beside it, with the text's sha256 and where it comes from.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.atomic import atomic_files, write_json
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_json, read_text
from sparseft.tasks.rows import each_row
from sparseft.tasks.task import RowFormat

DOCUMENT = RowFormat(
    name="document",
    fields={"text": str},
    converted=lambda row: {"text": row["text"]} if "text" in row else row,
)
# What stands between two documents of a text.
DOCUMENT_BREAK = "\n\n"


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


def documents_lines(documents: Iterable[str]) -> Iterator[str]:
    """Yield documents as the lines of a .jsonl file."""
    for document in documents:
        yield json.dumps({"text": document}, ensure_ascii=False) + "\n"


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


def source_file(path: Path) -> Path:
    """Return the place of a text's source, beside the text."""
    return Path(f"{path}.json")
