"""Compare the right answers of evaluations, and the definitions of their tasks, with the data that lie in the study."""

from dataclasses import dataclass
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.study.grid import DATA
from sparseft.tasks.prepared import check_recorded, find_task
from sparseft.tasks.rows import parse_rows, read_row_text
from sparseft.tasks.scoring import labels_digest, labels_of
from sparseft.tasks.task import Task


@dataclass(frozen=True)
class AnswerCheck:
    """Hold the result of a comparison: a fault, why it could not be made, or neither if the right answers agree."""

    fault: str | None = None
    unchecked: str | None = None


@dataclass(frozen=True)
class RowFile:
    """Hold what is compared with a file of validation rows.

    `labels` is the digest of its right answers and choice lengths; None if the rows are not the task's."""

    sha256: str
    is_recorded: bool
    labels: str | None


class RightAnswers:
    """Compare the right answers of evaluations with the validation rows in a study's folder. Each file is read once."""

    def __init__(self, study: Path) -> None:
        self.study = study
        self.files: dict[Path, RowFile] = {}
        self.tasks: dict[str, Task | None] = {}

    def check(self, task: str, data: str, rows_digest: str | None) -> AnswerCheck:
        """Compare one evaluation with the rows of its task.

        `data` is the sha256 of the rows that it names, and `rows_digest` the digest of its right answers and choice lengths.
        Without `rows_digest`, only the file is compared. Rows that their manifest does not record are a fault. Rows that are
        missing, or are not those that it names, leave it unchecked."""
        path = self._folder(task) / "validation.jsonl"
        place = f"{task}/{path.name}"
        if not path.is_file():
            return AnswerCheck(unchecked=f"{place} is not there")
        if path not in self.files:
            self.files[path] = _read_rows(path, task, self._task(task))
        rows = self.files[path]
        if not rows.is_recorded:
            return AnswerCheck(fault=f"{place} is not the file that its manifest records")
        if rows.sha256 != data:
            return AnswerCheck(unchecked=f"{place} is another file than the one that was evaluated on")
        if rows_digest is not None and rows.labels != rows_digest:
            return AnswerCheck(fault=f"labels or choice_lengths are not those of {place}")
        return AnswerCheck()

    def definition(self, task: str) -> str | None:
        """Return the digest of a task's definition in the manifest of its data; None if it is built in or not there."""
        known = self._task(task)
        return known.definition_sha256 if known else None

    def _folder(self, task: str) -> Path:
        """Return the folder of a task's data."""
        return self.study / DATA.format(task=task)

    def _task(self, name: str) -> Task | None:
        """Return a task; None if it is neither built in nor defined in the manifest of its data."""
        if name not in self.tasks:
            try:
                self.tasks[name] = find_task(self._folder(name), name)
            except InputError:
                self.tasks[name] = None
        return self.tasks[name]


def _read_rows(path: Path, name: str, task: Task | None) -> RowFile:
    """Return what is compared with a file of rows of the task `name`. The rows may be any rows."""
    text = _text_of(path, task)
    digest = sha256(path) if text is None else sha256_of_text(text)
    return RowFile(digest, _is_recorded(path, digest, name), None if text is None else _labels_of(text, path, task))


def _text_of(path: Path, task: Task | None) -> str | None:
    """Return the text of a file of rows; None if the task is unknown, or if the file cannot be read."""
    if task is None:
        return None
    try:
        return read_row_text(path, task)
    except InputError:
        return None


def _labels_of(text: str, path: Path, task: Task) -> str | None:
    """Return the digest of the right answers and choice lengths of rows; None if they are not the task's."""
    try:
        rows = parse_rows(text, path, task)
    except InputError:
        return None
    return labels_digest(*labels_of(rows, task))


def _is_recorded(path: Path, digest: str, task: str) -> bool:
    """Return whether the manifest beside a file of rows records it. A file without a manifest counts as recorded."""
    try:
        check_recorded(path, digest, task)
    except InputError:
        return False
    return True
