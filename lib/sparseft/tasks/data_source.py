"""Load the rows of a task and the text of a perplexity, and say where they come from.

The rows of a mini task are generated. All others come from a folder of the user's or from the Hugging Face hub.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.tasks import wikitext2
from sparseft.tasks.documents import load_documents, read_documents
from sparseft.tasks.hub import hub_dataset, hub_source, rows_of_split
from sparseft.tasks.rows import read_rows
from sparseft.tasks.task import SPLITS, Row, Task


class Data(Protocol):
    """Name the keys of `tasks.NAME` that say which rows a task has."""

    local: str | None
    hub: str | None
    length: int | None
    numbers: dict[str, int | None]
    selection_examples: int | None
    seed: int


@dataclass(frozen=True)
class Examples:
    """Hold a task, its rows by split, and where they come from. `source` is written into manifest.json."""

    task: Task
    rows: dict[str, list[Row]]
    source: dict


def load_examples(task: Task, data: Data) -> Examples:
    """Return the examples of a task. The same task and data give the same rows on every machine.

    Raises InputError if they cannot be loaded, or if a split has fewer rows than data.numbers."""
    if task.generate:
        if data.local or data.hub or None in data.numbers.values():
            raise InputError(
                f"{task.name} is generated", "give train_examples and validation_examples, neither local nor hub"
            )
        rows = {split: task.generate(split, number, data.seed) for split, number in data.numbers.items()}
        return Examples(task, rows, {"generated": task.name})
    rows, sources = {}, {}
    for split in SPLITS:
        every_row, sources[split] = load_rows(task, split, data.local, data.hub)
        rows[split] = choose_rows(every_row, task.name, split, data.numbers[split], data.seed)
    return Examples(task, rows, {"local": sources} if data.local else sources["train"])


def load_rows(task: Task, split: str, local: Path | str | None, hub: str | None = None) -> tuple[list[Row], str | dict]:
    """Return all rows of a split, and their source: the sha256 of the file, or the place and the revision on the hub.

    `local` is a folder and `hub` a place on the hub. Without either, the rows come from the task's own place. Raises
    InputError if they cannot be loaded."""
    if local:
        path = local_file(Path(local), split, is_text=task.sequence_length > 0) or Path(local, f"{split}.jsonl")
        if task.sequence_length:
            documents, digest = read_documents(path)
            return [{"text": document} for document in documents], digest
        return read_rows(path, task), sha256(path)
    place = hub or task.hub
    dataset = hub_dataset(place, f"tasks.{task.name}.local")
    if split == "validation" and split not in dataset:
        split = task.validation_split
    return rows_of_split(dataset, split, place, task), hub_source(place, dataset)


def choose_rows(rows: list[Row], name: str, split: str, number: int | None, seed: int) -> list[Row]:
    """Return `number` rows of a task's split, chosen by `seed`, or all if it is None. Raises InputError if they are too few."""
    if number is None:
        return rows
    if number > len(rows):
        raise InputError(f"{name}: {len(rows)} {split} examples, {number} are asked for", f"lower {split}_examples")
    return random.Random(f"{name}-{split}-{seed}").sample(rows, number)


def local_file(folder: Path, split: str, *, is_text: bool) -> Path | None:
    """Return the file of a split in a folder of the user's; None if there is none. Raises InputError if a text has two."""
    endings = (".txt", ".jsonl") if is_text else (".jsonl",)
    files = [file for ending in endings if (file := folder / f"{split}{ending}").exists()]
    if len(files) > 1:
        raise InputError(f"{folder}: there are both {files[0].name} and {files[1].name}", "remove one of them")
    return files[0] if files else None


def local_source(folder: Path) -> dict:
    """Return the source of the rows in a folder: the sha256 of its two files."""
    return {"local": {split: sha256(folder / f"{split}.jsonl") for split in SPLITS}}


def load_perplexity_documents(local: str | None, hub: str | None) -> tuple[list[str], dict]:
    """Return the documents of a perplexity's text, and their source: the file `local`, or the split `test` of a data set."""
    return load_documents(local, hub or wikitext2.PLACE, "test", "perplexity.local")
