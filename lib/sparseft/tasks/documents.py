"""Load the documents of a text, write a text with its source beside it, and read it again.

A text is a .jsonl file with one document per row in the field `text`, a .txt file, which is one document, or a data set on the
Hugging Face hub. A prepared text has FILE.json beside it, with the text's sha256 and where it comes from.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.atomic import atomic_files, write_json
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.storage.reading import TEXT_LIMIT, read_json, read_text
from sparseft.tasks.hub import loaded_revision, rows_of_split
from sparseft.tasks.rows import parse_rows, read_row_text
from sparseft.tasks.task import RowFormat

DOCUMENT = RowFormat(name="document", fields={"text": str})


@dataclass(frozen=True)
class SourceText:
    """Hold the content of a text's file. `source` says where the text comes from; None if that is unknown."""

    content: str
    sha256: str
    source: dict | None


def read_documents(path: Path) -> list[str]:
    """Return the documents of a file. Raises InputError if it cannot be read, or if a row of a .jsonl file has no text."""
    if path.suffix == ".txt":
        return [read_text(path, TEXT_LIMIT, "correct the path")]
    return documents_of(read_row_text(path, DOCUMENT), path)


def documents_of(content: str, path: Path) -> list[str]:
    """Return the documents in the content of the file `path`. Raises InputError if a row of a .jsonl file has no text."""
    if path.suffix == ".txt":
        return [content]
    return [row["text"] for row in parse_rows(content, path, DOCUMENT)]


def hub_documents(dataset: dict, split: str, place: str) -> list[str]:
    """Return the documents of a split of a data set, which is at `place`. Raises InputError if they have no text."""
    return [row["text"] for row in rows_of_split(dataset, split, place, DOCUMENT)]


def file_source(path: Path) -> dict:
    """Return where a text comes from that is in a file."""
    return {"local": sha256(path)}


def hub_source(dataset: dict, place: str) -> dict:
    """Return where a text comes from that is in a data set at `place`."""
    return {"hub": place.partition("@")[0], "revision": loaded_revision(dataset)}


def as_jsonl(documents: list[str]) -> str:
    """Return documents as the content of a .jsonl file."""
    return "".join(json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents)


def write_text(path: Path, content: str, source: dict) -> None:
    """Write a text, and its source beside it. Both files appear, or none."""
    with atomic_files(path.parent, path.name) as folder:
        text_file = folder / path.name
        text_file.write_bytes(content.encode())
        write_json(folder / source_file(path).name, {"source": source, "sha256": sha256(text_file)})


def read_source_text(path: Path, advice: str) -> SourceText:
    """Return a text, and its source if the file beside it says so. `advice` is for a text that cannot be read.

    Raises InputError if the file beside it describes another text."""
    content = read_text(path, TEXT_LIMIT, advice)
    digest = sha256_of_text(content)
    if not source_file(path).is_file():
        return SourceText(content, digest, None)
    remedy = f"prepare it again, or remove {source_file(path)}"
    recorded = read_json(source_file(path), remedy)
    if recorded.get("sha256") != digest:
        raise InputError(f"{path}: not the text that {source_file(path)} describes", remedy)
    return SourceText(content, digest, recorded.get("source"))


def source_file(path: Path) -> Path:
    """Return the place of a text's source, beside the text."""
    return Path(f"{path}.json")
