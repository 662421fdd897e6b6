"""Define a task of general text: its documents become sequences of one length, and the loss is on every token.

The documents of a split are joined by blank lines, and the text is tokenised once. Then it is cut into sequences of `length`
tokens that do not overlap, and the tokens after the last whole sequence are left out (language_model/batches.py).
"""

from pathlib import Path
from typing import Protocol

from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import TEXT_LIMIT, read_text
from sparseft.tasks.data_source import Examples, choose_rows, load_examples
from sparseft.tasks.metrics import LOSS, TOKEN_PERPLEXITY
from sparseft.tasks.rows import read_rows
from sparseft.tasks.task import SPLITS, Row, Task

# Tokens per sequence, if the configuration does not say.
LENGTH = 512


class OwnData(Protocol):
    """Name the keys of `tasks.NAME` that are read here."""

    local: str | None
    hub: str | None
    length: int | None
    numbers: dict[str, int | None]
    seed: int


def load_own_examples(name: str, data: OwnData) -> Examples:
    """Return the documents in the folder data.local, or at the place data.hub.

    Raises InputError if they cannot be loaded, or if a split has no text."""
    task = task_of(name, {"kind": "text", "length": data.length or LENGTH})
    if data.local:
        examples = _local_examples(task, data)
    else:
        examples = load_examples(task, data.numbers, data.seed, None, data.hub)
    for split, rows in examples.rows.items():
        if not any(row["text"].strip() for row in rows):
            raise InputError(f"tasks.{name}: the {split} text is empty", "give documents that have text")
    return examples


def task_of(name: str, definition: dict) -> Task:
    """Return the task that a definition describes, with `length` tokens per sequence."""
    length = definition.get("length")
    if not isinstance(length, int) or length < 2:
        raise InputError(f"{name}: a length of {length!r} tokens", "prepare the task again")
    return Task(
        name=name,
        fields={"text": str},
        # Documents are compared whole.
        prompt=lambda row: row["text"],
        answer=lambda row: "",
        sequence_length=length,
        headline=LOSS,
        metrics=(LOSS, TOKEN_PERPLEXITY),
        from_hub=lambda row: {"text": row["text"]} if "text" in row else row,
        definition=definition,
    )


def _local_examples(task: Task, data: OwnData) -> Examples:
    """Return the documents of the files in the folder data.local."""
    files = {split: _file_of(Path(data.local), split) for split in SPLITS}
    rows = {
        split: choose_rows(_documents(file, task), task.name, split, data.numbers[split], data.seed)
        for split, file in files.items()
    }
    return Examples(task, rows, {"local": {split: sha256(file) for split, file in files.items()}})


def _file_of(folder: Path, split: str) -> Path:
    """Return the file of a split: SPLIT.txt or SPLIT.jsonl. Raises InputError if there are both."""
    text = folder / f"{split}.txt"
    rows = folder / f"{split}.jsonl"
    if text.exists() and rows.exists():
        raise InputError(f"{folder}: there are both {text.name} and {rows.name}", "remove one of them")
    return text if text.exists() else rows


def _documents(file: Path, task: Task) -> list[Row]:
    """Return the documents of a file. A .txt file is one document."""
    if file.suffix == ".txt":
        return [{"text": read_text(file, TEXT_LIMIT, "write the text as UTF-8")}]
    return [{"text": row["text"]} for row in read_rows(file, task)]
