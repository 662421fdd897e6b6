"""Choose the selection rows of a task, on which a study compares its trainings, and read them.

They are a third split beside the training and the validation rows. They come from a split `selection` of the data. If there is
none, they are training rows that the training does not use. A mini task generates more rows with its training words, so that
no choice depends on the words of its validation rows.

No selection row has the prompt of a training row, of a validation row, or of another selection row. Real data repeat
themselves, so such rows are left out and counted.

    selection.jsonl          the rows
    selection_manifest.json  their source, seed, number and sha256, the number of rows that were left out, and the sha256 of
                             the two files that they are disjoint from
"""

import hashlib
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sparseft.errors import InputError
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.storage.record import read_record, remake_advice
from sparseft.tasks.data_source import choose_rows, load_rows
from sparseft.tasks.documents import read_documents
from sparseft.tasks.hub import hub_dataset, hub_source
from sparseft.tasks.rows import parse_rows, read_row_text, read_rows
from sparseft.tasks.task import SPLITS, Row, Task

# The name of the split.
SELECTION = "selection"
ROWS_FILE = f"{SELECTION}.jsonl"
MANIFEST_FILE = f"{SELECTION}_manifest.json"


class SelectionData(Protocol):
    """Name the keys of `tasks.NAME` that decide the selection rows."""

    local: str | None
    hub: str | None
    numbers: dict[str, int | None]
    selection_examples: int | None
    seed: int


@dataclass(frozen=True)
class Candidates:
    """Hold the rows that may become selection rows, in random order, and where they come from.

    `split` is the split of the source. It is `train` unless the source has a split for this purpose."""

    rows: Iterable[Row]
    source: dict
    split: str

    @property
    def is_own_split(self) -> bool:
        """Return whether the source has a split for this purpose."""
        return self.split != "train"


@dataclass(frozen=True)
class ChosenRows:
    """Hold the chosen rows, and the number of candidates that were left out because another row has their prompt."""

    rows: list[Row]
    left_out: int


def load_candidates(task: Task, data: SelectionData, prepared: dict[str, list[Row]]) -> Candidates:
    """Return the candidates of a task that is not one of lm-eval's. `prepared` has its training and validation rows.

    Raises InputError if they cannot be loaded, or if the training takes all rows."""
    if task.generate:
        return _generated(task, data, prepared)
    rows, source, split = _local_rows(task, data) if data.local else _hub_rows(task, data)
    if split == "train":
        rows = unused_rows(rows, task.name, data)
    if task.sequence_length:
        rows = [row for row in rows if row["text"].strip()]
    return Candidates(shuffled(rows, task.name, data.seed), source, split)


def unused_rows(rows: list, name: str, data: SelectionData) -> list:
    """Return the training rows that the training of a task does not use. Raises InputError if it uses all of them."""
    used = set(choose_rows(list(range(len(rows))), name, "train", data.numbers["train"], data.seed))
    unused = [row for index, row in enumerate(rows) if index not in used]
    if not unused:
        raise nothing_left(name, f"the training takes all {len(rows)} rows")
    return unused


def nothing_left(name: str, reason: str) -> InputError:
    """Return the error for a task without a row for the split selection."""
    return InputError(
        f"tasks.{name}: no row is left for the split {SELECTION}, because {reason}",
        f"set tasks.{name}.train_examples to a smaller number, or give the data a split {SELECTION}",
    )


def shuffled(rows: list, name: str, seed: int) -> list:
    """Return rows in the random order in which selection rows are taken."""
    return random.Random(f"{name}-{SELECTION}-{seed}").sample(rows, len(rows))


def choose_selection(
    task: Task, candidates: Candidates, prepared: dict[str, list[Row]], number: int | None
) -> ChosenRows:
    """Return the first `number` candidates with a prompt of their own.

    Without a number they are all rows of a split for this purpose, or else as many as there are validation rows. Documents
    are as much text as the validation documents. Raises InputError if no row is left, or fewer than `number`."""
    known = {task.prompt(row) for split in SPLITS for row in prepared[split]}
    is_measured_in_text = number is None and task.sequence_length
    wanted = _wanted(task, candidates, prepared["validation"], number)
    rows: list[Row] = []
    taken = 0
    left_out = 0
    for row in candidates.rows:
        if taken >= wanted:
            break
        prompt = task.prompt(row)
        if prompt in known:
            left_out += 1
            continue
        known.add(prompt)
        rows.append(row)
        taken += len(prompt) if is_measured_in_text else 1
    if not rows:
        raise nothing_left(task.name, f"all {left_out} candidates repeat a prompt")
    if number and len(rows) < number:
        raise InputError(
            f"tasks.{task.name}: {len(rows)} rows are left for the split {SELECTION}, {number} are asked for",
            f"lower tasks.{task.name}.selection_examples or train_examples",
        )
    return ChosenRows(rows, left_out)


def check_selection(task: Task, rows: list[Row], prepared: dict[str, list[Row]], place: Path | str) -> None:
    """Raise InputError if selection rows cannot be scored. `place` stands before the error, which calls them validation rows."""
    try:
        task.check({"train": prepared["train"], "validation": rows})
    except InputError as error:
        raise in_the_place_of_validation(error, place) from None


def in_the_place_of_validation(error: InputError, place: Path | str) -> InputError:
    """Return an error about selection rows that were read like validation rows, with the place of their file."""
    what, advice = error.args
    return InputError(f"{place}, read like validation rows: {what}", advice)


def shared_prompts(task: Task, rows: list[Row], prepared: dict[str, list[Row]]) -> dict[str, int]:
    """Return by split how many selection rows have the prompt of a row in it. Splits without such a row are left out."""
    counts = {}
    for split in SPLITS:
        prompts = {task.prompt(row) for row in prepared[split]}
        counts[split] = sum(task.prompt(row) in prompts for row in rows)
    return {split: count for split, count in counts.items() if count}


def read_selection(
    folder: Path, task: Task, prepared: dict[str, list[Row]], digests: dict[str, str]
) -> tuple[list[Row], str]:
    """Return the selection rows in a data folder, and the sha256 of their file.

    `prepared` has the rows of the other splits, and `digests` the sha256 of their files. Raises InputError unless the manifest
    records the file, and unless the rows are disjoint from the other splits."""
    path = folder / ROWS_FILE
    text = read_row_text(path, task)
    digest = sha256_of_text(text)
    check_manifest(folder, task, digest, digests)
    rows = parse_rows(text, path, task)
    for split, count in shared_prompts(task, rows, prepared).items():
        raise InputError(f"{path}: {count} rows have the prompt of a {split} row", remake_advice(path))
    return rows, digest


def check_manifest(folder: Path, task: Task, digest: str, digests: dict[str, str]) -> None:
    """Raise InputError unless the manifest records a file with this digest, disjoint from files with these `digests`."""
    path = folder / ROWS_FILE
    manifest = read_record(folder / MANIFEST_FILE)
    if manifest.get("task") != task.name or manifest.get("sha256") != digest:
        raise InputError(f"{path}: not the file that {MANIFEST_FILE} records", remake_advice(path))
    if manifest.get("disjoint_from") != digests:
        raise InputError(
            f"{path}: chosen beside other files than the {' and '.join(SPLITS)} rows in {folder}", remake_advice(path)
        )


def local_file(folder: Path, split: str, *, is_text: bool) -> Path | None:
    """Return the file of a split in a folder of the user's; None if there is none. Raises InputError if a text has two."""
    endings = (".txt", ".jsonl") if is_text else (".jsonl",)
    files = [file for ending in endings if (file := folder / f"{split}{ending}").exists()]
    if len(files) > 1:
        raise InputError(f"{folder}: there are both {files[0].name} and {files[1].name}", "remove one of them")
    return files[0] if files else None


def _wanted(task: Task, candidates: Candidates, validation: list[Row], number: int | None) -> float:
    """Return how many rows are taken, or how many characters of documents if no number is set."""
    if number is not None:
        return number
    if candidates.is_own_split:
        return math.inf
    return sum(len(row["text"]) for row in validation) if task.sequence_length else len(validation)


def _generated(task: Task, data: SelectionData, prepared: dict[str, list[Row]]) -> Candidates:
    """Return generated rows, enough of them even if all training rows are among them."""
    number = data.selection_examples or len(prepared["validation"])
    stream = hashlib.sha256(f"{SELECTION}-{data.seed}".encode()).digest()
    try:
        rows = task.generate("train", number + len(prepared["train"]), int.from_bytes(stream))
    except InputError as error:
        raise InputError(
            f"tasks.{task.name}: {number} selection rows beside {len(prepared['train'])} training rows: {error.args[0]}",
            f"lower tasks.{task.name}.selection_examples or train_examples",
        ) from None
    return Candidates(rows, {"generated": task.name}, "train")


def _local_rows(task: Task, data: SelectionData) -> tuple[list[Row], dict, str]:
    """Return all rows of a split in the user's folder, their source, and the split."""
    folder = Path(data.local)
    is_text = task.sequence_length > 0
    own = local_file(folder, SELECTION, is_text=is_text)
    split = SELECTION if own else "train"
    path = own or local_file(folder, split, is_text=is_text) or folder / f"{split}.jsonl"
    if is_text:
        documents, digest = read_documents(path)
        return [{"text": document} for document in documents], {"local": digest}, split
    return read_rows(path, task), {"local": sha256(path)}, split


def _hub_rows(task: Task, data: SelectionData) -> tuple[list[Row], dict, str]:
    """Return all rows of a split on the hub, their source, and the split."""
    place = data.hub or task.hub
    dataset = hub_dataset(place, f"tasks.{task.name}.local", "a folder with train.jsonl and validation.jsonl")
    split = SELECTION if SELECTION in dataset else "train"
    return load_rows(task, split, None, data.seed, None, place), hub_source(place, dataset), split
