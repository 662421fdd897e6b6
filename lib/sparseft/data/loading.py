"""Load the rows of a task and the documents of a text, and say where they come from.

The rows of a mini task are generated. All others come from a folder of the user's or from the Hugging Face hub. A place
on the hub is ORG/NAME[/CONFIGURATION][@REVISION], or ORG/NAME/FILE[@REVISION] for one file of a large data set.
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sparseft.axes.tasks import KINDS
from sparseft.axes.tasks.task import (
    DOCUMENT,
    DOCUMENT_BREAK,
    SPLITS,
    TEXT_LENGTH,
    WINDOW,
    Lengths,
    Row,
    RowFormat,
    SplitRows,
    Task,
)
from sparseft.common.errors import InputError, one_line
from sparseft.data.rows import as_lines, checked_row, each_row, read_rows
from sparseft.data.settings import HUB, TaskData
from sparseft.data.texts import claim_text, read_documents, write_source_text
from sparseft.storage.hashes import sha256
from sparseft.storage.revisions import fixed

COMMIT = r"[0-9a-f]{40}"
# The endings of the files that can be loaded one by one.
FILE_ENDINGS = (".json", ".jsonl", ".parquet", ".txt", ".gz", ".zst")
# The data of a task does not depend on a model, so its tokens are estimated.
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Examples:
    """Hold a task, its rows by split, and where they come from, with a digest per split of local files."""

    task: Task
    rows: SplitRows
    source: dict


def load_examples(task: Task, data: TaskData, windows: Sequence[Path] = ()) -> Examples:
    """Return the examples of a task. The same task and data give the same rows on every machine.

    windows: the texts of windows that are the rows of the splits

    Raises InputError if they cannot be loaded, or if a split has fewer rows than data.numbers."""
    if task.generate:
        numbers = {split: number for split, number in data.numbers.items() if number is not None}
        if data.local or data.hub or numbers != data.numbers:
            raise InputError(
                f"{task.name} is generated", "give train_examples and validation_examples, neither local nor hub"
            )
        rows = {split: task.generate(split, number, data.seed) for split, number in numbers.items()}
        return Examples(task, rows, {"generated": task.name})
    rows, sources = {}, {}
    for split in SPLITS:
        every_row, sources[split] = load_rows(task, split, data, windows)
        number = data.numbers[split]
        # All windows stay in their order, in which the divergence scores them too.
        number = None if windows and number == len(every_row) else number
        rows[split] = choose_rows(every_row, task.name, split, number, data.seed)
    return Examples(
        task, rows, {"local": sources} if data.local else {"windows": sources} if windows else sources["train"]
    )


def own_task(name: str, data: TaskData, windows: Sequence[Path] = ()) -> Task:
    """Return the task of kind text or instruction that the configuration describes.

    The first training row decides the format of the rows of an instruction, and the length of the `windows`."""
    if windows:
        length = len(next(each_row(windows[0], WINDOW), {"ids": ()})["ids"])
        return KINDS["text"].task_of(name, {"kind": "text", "length": length, "windows": True})
    if data.kind == "text":
        return KINDS["text"].task_of(name, {"kind": "text", "length": data.length or TEXT_LENGTH})
    # The configuration requires a folder for this kind.
    assert data.local
    first_row = next(each_row(Path(data.local, "train.jsonl"), RowFormat(name=name, fields={})), {})
    form = "messages" if "messages" in first_row else "response"
    return KINDS["instruction"].task_of(name, {"kind": "instruction", "format": form})


def load_rows(task: Task, split: str, data: TaskData, windows: Sequence[Path] = ()) -> tuple[list[Row], Any]:
    """Return all rows of a split, and their source: the sha256 of the file, or the place and the revision on the hub.

    If `data` has neither a folder nor a place on the hub, they come from the task's own place. Raises InputError if
    they cannot be loaded."""
    if windows:
        path = windows[SPLITS.index(split)]
        return [{name: row[name] for name in WINDOW.fields} for row in read_rows(path, WINDOW)], sha256(path)
    if data.local:
        path = local_file(data, split) or Path(data.local, f"{split}.jsonl")
        if task.sequence_length:
            documents, digest = read_documents(path)
            return [{"text": document} for document in documents], digest
        return read_rows(path, task), sha256(path)
    place = data.hub or task.hub
    # A task without a place on the hub needs `local` or `hub` in the configuration.
    assert place
    dataset = hub_dataset(place, f"tasks.{task.name}.local")
    if split == "validation" and split not in dataset:
        split = task.validation_split
    return rows_of_split(dataset, split, place, task), hub_source(place, dataset)


def choose_rows(rows: list, name: str, split: str, number: int | None, seed: int) -> list:
    """Return `number` rows of a task's split, chosen by `seed`, or all if it is None. Raises InputError if they are too
    few."""
    if number is None:
        return rows
    if number > len(rows):
        raise InputError(f"{name}: {len(rows)} {split} examples, {number} are asked for", f"lower {split}_examples")
    return random.Random(f"{name}-{split}-{seed}").sample(rows, number)


def local_file(data: TaskData, split: str) -> Path | None:
    """Return the file of a split in the user's folder; None if there is none. Raises InputError if a text has two."""
    if not data.local:
        return None
    endings = (".txt", ".jsonl") if data.kind == "text" else (".jsonl",)
    files = [file for ending in endings if (file := Path(data.local, f"{split}{ending}")).exists()]
    if len(files) > 1:
        raise InputError(f"{data.local}: there are both {files[0].name} and {files[1].name}", "remove one of them")
    return files[0] if files else None


def prepare_text(output: Path, text: str, split: str) -> None:
    """Load the documents of a text, and write them with their source beside them: as rows, or joined if `output` ends
    in .txt.

    `text` is a file, or hub:PLACE for a `split` of a data set. The source is the sha256 of the file, or the revision on
    the hub. Raises InputError if it cannot be loaded, or if the output would replace a file of somebody
    else."""
    place = text.removeprefix(HUB)
    is_on_hub = place != text
    claim_text(output, [] if is_on_hub else [Path(text)], (".jsonl", ".txt"))
    if is_on_hub:
        dataset = hub_dataset(place, "perplexity.local" if split == "test" else "masks.calibration.NAME.text")
        documents = [row["text"] for row in rows_of_split(dataset, split, place, DOCUMENT)]
        source = hub_source(place, dataset)
    else:
        documents, digest = read_documents(Path(text))
        source = {"local": digest}
    lines = as_lines({"text": document} for document in documents)
    write_source_text(output, lines if output.suffix == ".jsonl" else [DOCUMENT_BREAK.join(documents)], source)


@cache
def hub_dataset(place: str, key: str) -> dict:
    """Return the splits of a data set on the hub by name, each a datasets.Dataset. One file is the split `train`.

    Raises InputError if it cannot be loaded. The user may then go online, or set `key` of the configuration."""
    # The import takes a second, and rows from a folder do not need it.
    from datasets import load_dataset

    remedy = f"set {key} to a local copy (docs/tasks.md)"
    place = fixed(place)
    path, _, revision = place.partition("@")
    organisation, name, *parts = path.split("/")
    if parts and path.endswith(FILE_ENDINGS):
        part: dict = {"data_files": {"train": "/".join(parts)}}
    else:
        part = {"name": parts[0]} if parts else {}
    # `load_dataset` would load the folder, whatever the revision.
    if Path(organisation, name).exists():
        raise InputError(f"{place}: a folder here has the name of the data set on the hub", f"rename it, or {remedy}")
    try:
        dataset = load_dataset(f"{organisation}/{name}", **part, revision=revision or None)
    # The client raises a dozen kinds of errors for a data set that cannot be loaded.
    except Exception as error:
        what = f"{place} cannot be loaded from the hub ({type(error).__name__}: {one_line(error)[:200]})"
        raise InputError(what, f"go online, accept its terms if it is gated (hf auth login), or {remedy}") from None
    loaded = loaded_revision(dataset)
    # Offline, `load_dataset` returns whatever revision is in the cache.
    if loaded and re.fullmatch(COMMIT, revision) and loaded != revision:
        raise InputError(f"{place}: this machine has only revision {loaded}", f"go online, or {remedy}")
    return dataset


def loaded_revision(dataset: dict) -> str | None:
    """Return the commit of a data set from the hub; None if it is from elsewhere. `datasets` names its cache folder by
    it."""
    first_split = next(iter(dataset.values()))
    folder = Path(first_split.cache_files[0]["filename"]).parent.name
    return folder if re.fullmatch(COMMIT, folder) else None


def hub_source(place: str, dataset: dict) -> dict:
    """Return the source of rows from the hub: their place without the requested revision, and the loaded revision."""
    return {"hub": place.partition("@")[0], "revision": loaded_revision(dataset)}


def rows_of_split(dataset: dict, split: str, place: str, row_format: RowFormat) -> list[Row]:
    """Return the rows of a split, converted and checked like the rows of a file.

    Raises InputError if the split is missing or a row does not have the format."""
    return [
        checked_row(row, row_format, f"{place}, split {split}, row {number}", "name another data set or revision")
        for number, row in enumerate(split_of(dataset, split, place), start=1)
    ]


def split_of(dataset: dict, split: str | None, place: str) -> Any:
    """Return a split of a data set on the hub, a datasets.Dataset. Raises InputError if there is none."""
    if split not in dataset:
        raise InputError(f"{place} has no split {split}, only {', '.join(dataset)}", "name another data set or split")
    return dataset[split]


def measured_lengths(task: Task, rows: SplitRows) -> Lengths:
    """Return the lengths as measured on the rows of both splits, with `few_shot` and `max_new_tokens`.

    The examples of a text are the sequences into which its documents are cut."""
    every_row = [*rows["train"], *rows["validation"]]
    if task.sequence_length:
        characters = [sum(len(row["text"]) for row in documents) for documents in rows.values()]
        numbers = [max(1, _tokens(number) // task.sequence_length) for number in characters]
        mean = long = answer = task.sequence_length
    else:
        numbers = [len(split) for split in rows.values()]
        answers = [len(task.answer(row)) for row in every_row]
        wholes = np.add([len(task.prompt(row)) for row in every_row], answers)
        mean, long, answer = _tokens(np.mean(wholes)), _tokens(np.quantile(wholes, 0.99)), _tokens(np.mean(answers))
    choices = max(len(task.choices(row)) for row in every_row) if task.choices else 0
    return Lengths(numbers, mean, long, answer, choices, task.few_shot, task.max_new_tokens)


def _tokens(characters: float | np.floating) -> int:
    """Return the number of tokens that a number of characters makes, roughly."""
    return max(1, math.ceil(characters / CHARACTERS_PER_TOKEN))
