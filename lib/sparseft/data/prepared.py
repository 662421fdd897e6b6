"""Find the task of a data folder, and read its rows.

prepare_task.py writes the task and the sha256 of each file into a manifest beside it: manifest.json for the training
rows, and validation_manifest.json. Without a manifest, any rows of a built-in task are accepted. manifest.json of a
task that the configuration describes also holds its definition, so that every job reads the same one.
"""

from collections.abc import Iterable
from pathlib import Path

from sparseft.axes.tasks import BY_NAME, KINDS
from sparseft.axes.tasks.task import MANIFESTS, SPLITS, Row, SplitRows, Task
from sparseft.common.errors import InputError
from sparseft.data.rows import read_rows
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_json

_REMEDY = "prepare the task again with prepare_task.py, or restore the file"


def find_task(folder: Path, name: str) -> Task:
    """Return the task `name`: the built-in one, or that which the manifest in its data folder defines.

    Raises InputError if there is neither, or if the manifest belongs to another task."""
    if name in BY_NAME:
        return BY_NAME[name]
    advice = f"prepare the task {name!r} with prepare_task.py, or choose one of {', '.join(BY_NAME)}"
    content = read_json(folder / "manifest.json", advice)
    if content.get("task") != name or not content.get("definition"):
        raise InputError(f"{folder / 'manifest.json'}: does not define the task {name!r}", advice)
    return KINDS[content["definition"]["kind"]].task_of(name, content["definition"])


def read_splits(folder: Path, task: Task, splits: Iterable[str] = SPLITS) -> tuple[SplitRows, dict[str, str]]:
    """Return the rows of these splits, and the sha256 of their files. Raises InputError as `read_prepared` does."""
    rows: SplitRows = {}
    digests = {}
    for split in splits:
        rows[split], digests[split] = read_prepared(folder / f"{split}.jsonl", task)
    return rows, digests


def read_prepared(path: Path, task: Task) -> tuple[list[Row], str]:
    """Return the rows of a file, and its sha256.

    Raises InputError if a row is not one of the task's, or if the manifest beside the file records another task or
    sha256. The rows of boolq_mini fit boolq too, and would be scored under its name."""
    # The rows come first, because the place of a damaged row says more than "another file".
    rows = read_rows(path, task)
    digest = sha256(path)
    manifest = path.with_name(MANIFESTS[path.stem])
    if manifest.exists():
        recorded = read_json(manifest, _REMEDY)
        if (recorded.get("task"), recorded.get("sha256", {}).get(path.stem)) != (task.name, digest):
            what = f"{path}: not the {task.name} rows that its manifest records for {recorded.get('task')}"
            raise InputError(what, _REMEDY)
    return rows, digest
