"""Choose the selection rows of a task, on which a study compares its trainings, and read them.

They are a third split beside the training and the validation rows. They come from a split `selection` of the data. If there is
none, they are training rows that the training does not use. A mini task generates more rows with its training words, so that
no choice depends on the words of its validation rows.

No selection row occurs in a training row, in a validation row, or in another selection row (overlap.py). Real data repeat
themselves, so such rows are left out and counted. A split that is mostly training or validation rows is refused. Of a text,
some windows of 13 words may occur in the other splits; their share is recorded.

    selection.jsonl          the rows
    selection_manifest.json  their source, seed, number and sha256, the number of rows that were left out, their overlap, and
                             the sha256 of the two files that they are disjoint from
"""

import hashlib
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from sparseft.errors import InputError
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.storage.record import read_record, remake_advice
from sparseft.tasks.data_source import choose_rows, load_rows
from sparseft.tasks.documents import read_documents
from sparseft.tasks.hub import hub_dataset, hub_source
from sparseft.tasks.overlap import MOST, Texts, find, in_words, normal_form, shares_found, texts_of
from sparseft.tasks.rows import parse_rows, read_row_text, read_rows
from sparseft.tasks.task import SPLITS, Row, Task

# The name of the split.
SELECTION = "selection"
ROWS_FILE = f"{SELECTION}.jsonl"
MANIFEST_FILE = f"{SELECTION}_manifest.json"
# Candidates that are compared together, at least. Each comparison reads all rows of the other splits.
_AT_ONCE = 1000


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
    """Hold the chosen rows, and the number of candidates that were left out because they occur in another row.

    `overlap` is the share of the rows, or of a text's windows, that occurs in the training and validation rows."""

    rows: list[Row]
    left_out: int
    overlap: float


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
    """Return the first `number` candidates that occur in no training row, validation row or other chosen row.

    Without a number they are all rows of a split for this purpose, or else as many as there are validation rows. Documents
    are as much text as the validation documents. Raises InputError if no row is left, or fewer than `number`, or if most rows
    of a split for this purpose are training or validation rows."""
    is_measured_in_text = number is None and task.sequence_length
    wanted = _wanted(task, candidates, prepared["validation"], number)
    at_once = None if is_measured_in_text or wanted == math.inf else max(_AT_ONCE, wanted)
    rows: list[Row] = []
    forms: set[str] = set()
    taken = known = repeated = 0
    for row, is_known in _with_known(task, candidates.rows, prepared, at_once):
        if taken >= wanted:
            break
        prompt = task.prompt(row)
        form = normal_form(prompt)
        if is_known or form in forms:
            known += is_known
            repeated += not is_known
            continue
        forms.add(form)
        rows.append(row)
        taken += len(prompt) if is_measured_in_text else 1
    if not rows:
        raise nothing_left(task.name, f"all {known + repeated} candidates repeat a prompt")
    overlap = _overlap(task, rows, prepared)
    looked_at = known + repeated + len(rows)
    known_rows = f"{known} of {looked_at} rows of the split {SELECTION}"
    if overlap > MOST or (candidates.is_own_split and known > MOST * looked_at):
        what = in_words(overlap, task, SELECTION) if overlap > MOST else known_rows
        raise InputError(
            f"tasks.{task.name}: {what} also occur in the training or validation rows", f"give other {SELECTION} rows"
        )
    if number and len(rows) < number:
        raise InputError(
            f"tasks.{task.name}: {len(rows)} rows are left for the split {SELECTION}, {number} are asked for",
            f"lower tasks.{task.name}.selection_examples or train_examples",
        )
    return ChosenRows(rows, known + repeated, overlap)


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


def shared_rows(task: Task, rows: list[Row], prepared: dict[str, list[Row]]) -> dict[str, int]:
    """Return by split how many selection rows occur in it. Splits without such a row are left out."""
    counts = {split: sum(_occur_in(task, rows, {split: prepared[split]})) for split in SPLITS}
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
    for split, count in shared_rows(task, rows, prepared).items():
        raise InputError(f"{path}: {count} rows also occur in the {split} rows", remake_advice(path))
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


def _occur_in(task: Task, rows: list[Row], splits: dict[str, list[Row]]) -> list[bool]:
    """Return which rows occur in a row of the splits. Each document of a text is compared by itself."""
    # Without a template, the result for a row does not depend on the other rows.
    texts = Texts(texts_of(task, rows).parts, has_template=False)
    return find([texts], [texts_of(task, others) for others in splits.values()])[0].tolist()


def _overlap(task: Task, rows: list[Row], prepared: dict[str, list[Row]]) -> float:
    """Return the share of the windows of a text that occurs in the prepared text; 0 of examples, because none occurs there."""
    if not task.sequence_length:
        return 0.0
    others = [texts_of(task, prepared[split]) for split in SPLITS]
    return shares_found({SELECTION: texts_of(task, rows)}, others)[SELECTION]


def _with_known(
    task: Task, candidates: Iterable[Row], prepared: dict[str, list[Row]], at_once: int | None
) -> Iterator[tuple[Row, bool]]:
    """Yield candidates, each with whether it occurs in the prepared rows. `at_once` of them are compared together."""
    remaining = iter(candidates)
    while rows := list(islice(remaining, at_once)):
        yield from zip(rows, _occur_in(task, rows, prepared), strict=True)


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
