"""Choose the selection rows of a task, on which a study compares its trainings, and read them.

They are a third split beside the training and the validation rows. They come from a split `selection` of the data. If
there is none, they are training rows that the training does not use. A mini task generates more rows with its training
words, so that no choice depends on the words of its validation rows.

No selection row occurs in a training row, in a validation row, or in another selection row (overlap.py). Real data
repeat themselves, so such rows are left out and counted. Of a text, some windows of 13 words may occur in the other
splits; their share is recorded.

    selection.jsonl          the rows
    selection_manifest.json  their source, seed, number and sha256, the number of rows that were left out, their
                             overlap, and the sha256 of the two files that they are disjoint from
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparseft.axes.tasks.task import Row, SplitRows, Task
from sparseft.common.errors import InputError
from sparseft.data.loading import choose_rows, hub_dataset, load_rows, local_file
from sparseft.data.manifests import SelectionManifest
from sparseft.data.overlap import MOST, Texts, find, in_words, normal_form, shares_found, texts_of
from sparseft.data.rows import read_rows
from sparseft.data.settings import TaskData
from sparseft.storage.hashes import sha256
from sparseft.storage.record import remake_advice
from sparseft.storage.record_file import read_record_file

# The name of the split.
SELECTION = "selection"
ROWS_FILE = f"{SELECTION}.jsonl"
MANIFEST_FILE = f"{SELECTION}_manifest.json"
# Candidates that are compared together. Each comparison reads all rows of the other splits.
_AT_ONCE = 10_000


@dataclass(frozen=True)
class Candidates:
    """Hold the rows that may become selection rows, in random order, and where they come from.

    `split` is the split of the source. It is `train` unless the source has a split for this purpose. `rendered` returns
    some of the rows as they are written. Those of lm-eval are rendered when they are taken."""

    rows: list
    source: dict
    split: str
    rendered: Callable[[list], list[Row]] = list


def load_candidates(task: Task, data: TaskData, prepared: SplitRows, windows: Sequence[Path] = ()) -> Candidates:
    """Return the candidates of a task that is not one of lm-eval's. `prepared` has its training and validation rows.

    Raises InputError if they cannot be loaded."""
    if task.generate:
        # Enough of them even if all training rows are among them.
        number = (data.selection_examples or len(prepared["validation"])) + len(prepared["train"])
        stream = hashlib.sha256(f"{SELECTION}-{data.seed}".encode()).digest()
        return Candidates(task.generate("train", number, int.from_bytes(stream)), {"generated": task.name}, "train")
    in_hub = not (data.local or windows) and SELECTION in hub_dataset(data.hub or task.hub, f"tasks.{task.name}.local")
    split = SELECTION if in_hub or local_file(data, SELECTION) else "train"
    rows, source = load_rows(task, split, data, windows)
    if split == "train":
        rows = unused_rows(rows, task.name, data)
    if task.sequence_length:
        rows = [row for row in rows if row["text"].strip()]
    return Candidates(shuffled(rows, task.name, data), {"local": source} if data.local else source, split)


def unused_rows(rows: list, name: str, data: TaskData) -> list:
    """Return the training rows that the training does not use."""
    used = set(choose_rows(list(range(len(rows))), name, "train", data.train_examples, data.seed))
    return [row for index, row in enumerate(rows) if index not in used]


def shuffled(rows: list, name: str, data: TaskData) -> list:
    """Return rows in the random order in which selection rows are taken."""
    return choose_rows(rows, name, SELECTION, len(rows), data.seed)


def choose_selection(
    task: Task, candidates: Candidates, prepared: SplitRows, number: int | None
) -> tuple[list[Row], int, float]:
    """Return the first `number` candidates that occur in no training row, validation row or other chosen row.

    Return also how many were left out because they occur in another row, and the share of a text's windows that occurs
    in the training and validation text (0 of examples).

    Without a number they are all rows of a split for this purpose, or else as many as there are validation rows.
    Documents are as much text as the validation documents. Raises InputError if no row is left, or fewer than
    `number`, or if most of a text is training or validation text."""
    counts_characters = number is None and task.sequence_length > 0

    def size(row: Row) -> int:
        return len(row["text"]) if counts_characters else 1

    wanted = number or (sum(map(size, prepared["validation"])) if candidates.split == "train" else math.inf)
    # The chosen rows by the normal form of their prompts.
    rows: dict[str, Row] = {}
    taken = examined = 0
    for row, is_known in _with_known(task, candidates, prepared):
        if taken >= wanted:
            break
        examined += 1
        form = normal_form(task.prompt(row))
        if not is_known and form not in rows:
            rows[form] = row
            taken += size(row)
    if len(rows) < (number or 1):
        raise InputError(
            f"tasks.{task.name}: {len(rows)} rows are left for the split {SELECTION} of {examined} that are not"
            f" trained on, {number or 1} needed",
            f"lower tasks.{task.name}.selection_examples or train_examples, or give the data a split {SELECTION}",
        )
    chosen = list(rows.values())
    overlap = 0.0
    # No chosen example occurs in the prepared rows, but windows of a text may.
    if task.sequence_length:
        others = [texts_of(task, split) for split in prepared.values()]
        overlap = shares_found({SELECTION: texts_of(task, chosen)}, others)[SELECTION]
    if overlap > MOST:
        raise InputError(
            f"tasks.{task.name}: {in_words(overlap, task, SELECTION)} also occur in the training or validation text",
            "give another selection text",
        )
    return chosen, examined - len(rows), overlap


def read_selection(folder: Path, task: Task, digests: dict[str, str]) -> tuple[list[Row], str]:
    """Return the selection rows in a data folder, and the sha256 of their file.

    `digests` has the sha256 of the files of the other splits. Raises InputError unless the manifest records all three
    files."""
    path = folder / ROWS_FILE
    manifest = read_record_file(folder / MANIFEST_FILE, SelectionManifest)
    if (manifest.task, manifest.sha256, manifest.disjoint_from) != (task.name, sha256(path), digests):
        what = f"{path}: not the file that {MANIFEST_FILE} records, or chosen beside other rows than those in {folder}"
        raise InputError(what, remake_advice(path))
    return read_rows(path, task), manifest.sha256


def _with_known(task: Task, candidates: Candidates, prepared: SplitRows) -> Iterator[tuple[Row, bool]]:
    """Yield candidates, each with whether it occurs in the prepared rows. Each document of a text is compared by
    itself."""
    others = [texts_of(task, rows) for rows in prepared.values()]
    for start in range(0, len(candidates.rows), _AT_ONCE):
        rows = candidates.rendered(candidates.rows[start : start + _AT_ONCE])
        # Without a template, the result for a row does not depend on the other rows.
        texts = Texts(texts_of(task, rows).parts, has_template=False)
        yield from zip(rows, find([texts], others)[0].tolist(), strict=True)
