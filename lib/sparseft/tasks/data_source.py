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
from sparseft.tasks.documents import DOCUMENT_BREAK, TextPlace
from sparseft.tasks.hub import hub_dataset, hub_source, rows_of_split
from sparseft.tasks.rows import read_rows
from sparseft.tasks.task import SPLITS, Row, Task


class OwnData(Protocol):
    """Name the keys of `tasks.NAME` that a task of kind instruction or text reads."""

    local: str | None
    hub: str | None
    length: int | None
    numbers: dict[str, int | None]
    seed: int


@dataclass(frozen=True)
class Examples:
    """Hold a task, its rows by split, and where they come from. `source` is written into manifest.json."""

    task: Task
    rows: dict[str, list[Row]]
    source: dict


def load_examples(
    task: Task, numbers: dict[str, int | None], seed: int, local: Path | None, hub: str | None
) -> Examples:
    """Return the examples of a task, `numbers` of each split. Raises InputError as `load_rows` does."""
    rows = {split: load_rows(task, split, numbers[split], seed, local, hub) for split in SPLITS}
    return Examples(task, rows, source_of(task, local, hub))


def load_rows(
    task: Task, split: str, number: int | None, seed: int, local: Path | None, hub: str | None = None
) -> list[Row]:
    """Return `number` rows of a split, chosen by `seed`, or all rows if `number` is None.

    The same arguments give the same rows on every machine. `local` is a folder and `hub` a place on the hub; without either, the
    rows come from the task's own place. Raises InputError if the rows cannot be loaded or are too few."""
    if number is not None and number < 1:
        raise InputError(f"{task.name}: {number} {split} examples are asked for", "ask for one or more")
    if task.generate:
        if local or hub or number is None:
            raise InputError(
                f"{task.name} is generated", "give train_examples and validation_examples, neither local nor hub"
            )
        return task.generate(split, number, seed)
    rows = read_rows(local / f"{split}.jsonl", task) if local else _rows_from_hub(task, split, hub or task.hub)
    return choose_rows(rows, task.name, split, number, seed)


def choose_rows(rows: list[Row], name: str, split: str, number: int | None, seed: int) -> list[Row]:
    """Return `number` rows of a task's split, chosen by `seed`, or all if it is None. Raises InputError if they are too few."""
    if number is None:
        return rows
    if number > len(rows):
        raise InputError(f"{name}: {len(rows)} {split} examples, {number} are asked for", f"lower {split}_examples")
    return random.Random(f"{name}-{split}-{seed}").sample(rows, number)


def source_of(task: Task, local: Path | None, hub: str | None) -> dict:
    """Return where `load_rows` took the rows from: with the files' sha256, or the revision on the hub."""
    if task.generate:
        return {"generated": task.name}
    if local:
        return local_source(local)
    place = hub or task.hub
    return hub_source(place, _dataset(task, place))


def local_source(folder: Path) -> dict:
    """Return the source of the rows in a folder: the sha256 of its two files."""
    return {"local": {split: sha256(folder / f"{split}.jsonl") for split in SPLITS}}


def perplexity_text(local: Path | None, hub: str | None = None) -> TextPlace:
    """Return where the text of a perplexity is: in the file `local`, or in the split `test` at `hub`, or of WikiText-2."""
    return TextPlace(local, hub or wikitext2.PLACE, "test", "perplexity.local")


def load_text(local: Path | None, hub: str | None = None) -> str:
    """Return the text of a perplexity: its rows joined by blank lines, as GPTQ and Wanda read WikiText-2's test split.

    The rows are the lines of the text, blank lines included. Raises InputError if they cannot be loaded."""
    return DOCUMENT_BREAK.join(perplexity_text(local, hub).documents())


def _rows_from_hub(task: Task, split: str, place: str) -> list[Row]:
    """Return all rows of a split on the hub."""
    dataset = _dataset(task, place)
    if split == "validation" and split not in dataset:
        split = task.validation_split
    return rows_of_split(dataset, split, place, task, task.from_hub)


def _dataset(task: Task, place: str) -> dict:
    """Return the data set of a task on the hub."""
    return hub_dataset(place, f"tasks.{task.name}.local", "a folder with train.jsonl and validation.jsonl")
