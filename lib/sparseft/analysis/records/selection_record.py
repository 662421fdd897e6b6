"""Check selection.json: how a merged model scored on the selection rows, by which a study chooses among its trainings.

A choice by rows that are trained on, or that are reported, would make the result look better than it is. So a record of other
rows than the selection rows of the run's own data is not used, and the run has a fault.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from sparseft.analysis.records.evaluation_record import EvaluationInputs, EvaluationRecord
from sparseft.analysis.records.right_answers import AnswerCheck
from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.study.grid import DATA
from sparseft.tasks.prepared import find_task
from sparseft.tasks.rows import parse_rows, read_row_text, read_rows
from sparseft.tasks.scoring import labels_digest, labels_of
from sparseft.tasks.selection_rows import ROWS_FILE, check_manifest, shared_rows
from sparseft.tasks.task import SPLITS, Task

# These must be equal in evaluation.json. Otherwise the choice is about something else than what is reported.
SAME_CONDITIONS = ("metric", "definition_sha256", "dtype", "harness", "few_shot", "loss_few_shot")


class SelectionInputs(EvaluationInputs):
    """Hold the sha256 of each file of the evaluated model, and of the files of rows. `data` is that of the selection rows."""

    validation: str


class SelectionRecord(EvaluationRecord):
    """Check selection.json. It is an evaluation on the selection rows, without a perplexity and without probes."""

    file_name: ClassVar[str] = "selection.json"
    split: Literal["selection"]
    inputs: SelectionInputs

    def contradictions(self) -> Iterator[str]:
        """Yield what does not follow from the rows, and what shows that they are not selection rows."""
        yield from super().contradictions()
        for split in SPLITS:
            if self.inputs.data == getattr(self.inputs, split):
                yield f"inputs.data is the digest of the {split} rows"


@dataclass(frozen=True)
class SelectionFile:
    """Hold what is compared with a study's selection rows: the digests of the files, and of their right answers.

    `fault` says what is wrong with the rows; None if they are sound."""

    sha256: str
    labels: str | None
    fault: str | None


class SelectionRows:
    """Compare selection records with the rows in a study's folder. The files of each task are read once."""

    def __init__(self, study: Path) -> None:
        self.study = study
        self.files: dict[str, SelectionFile] = {}

    def check(self, task: str, selection: SelectionRecord, evaluation: EvaluationRecord) -> AnswerCheck:
        """Compare a run's selection record with its evaluation, and with the selection rows of its task.

        Rows that are missing, or are not those that the record names, leave it unchecked."""
        if reason := next(_differences(selection, evaluation), None):
            return AnswerCheck(fault=f"{selection.file_name}: {reason}")
        place = f"{task}/{ROWS_FILE}"
        if not (self._folder(task) / ROWS_FILE).is_file():
            return AnswerCheck(unchecked=f"{place} is not there")
        if task not in self.files:
            self.files[task] = _read_file(self._folder(task), task)
        rows = self.files[task]
        if rows.sha256 != selection.inputs.data:
            return AnswerCheck(unchecked=f"{place} is another file than the one that was evaluated on")
        if rows.fault:
            return AnswerCheck(fault=rows.fault)
        if selection.rows_digest is not None and rows.labels != selection.rows_digest:
            return AnswerCheck(fault=f"labels or choice_lengths are not those of {place}")
        return AnswerCheck()

    def _folder(self, task: str) -> Path:
        """Return the folder of a task's data."""
        return self.study / DATA.format(task=task)


def _differences(selection: SelectionRecord, evaluation: EvaluationRecord) -> Iterator[str]:
    """Yield why a selection record and an evaluation are not of one model, of one data set, and of different rows of it."""
    if selection.inputs.model != evaluation.inputs.model:
        yield "evaluates another model than evaluation.json"
    if (selection.inputs.train, selection.inputs.validation) != (evaluation.inputs.train, evaluation.inputs.data):
        yield "chosen beside other training or validation rows than those of evaluation.json"
    for name in SAME_CONDITIONS:
        if getattr(selection, name) != getattr(evaluation, name):
            yield f"{name} is {getattr(selection, name)}, in evaluation.json {getattr(evaluation, name)}"
    if selection.prompt_sha256 == evaluation.prompt_sha256:
        yield "its prompts are those of the validation rows"
    if np.array_equal(selection.losses, evaluation.losses):
        yield "its losses are those of the validation rows"


def _read_file(folder: Path, name: str) -> SelectionFile:
    """Return what is compared with the selection rows in a data folder. The files may hold anything."""
    path = folder / ROWS_FILE
    digest = sha256(path)
    try:
        task = find_task(folder, name)
        rows = parse_rows(read_row_text(path, task), path, task)
        check_manifest(folder, task, digest, {split: sha256(folder / f"{split}.jsonl") for split in SPLITS})
        prepared = {split: read_rows(folder / f"{split}.jsonl", task) for split in SPLITS}
    except (InputError, OSError) as error:
        return SelectionFile(digest, None, f"{name}/{ROWS_FILE}: {error}")
    shared = [
        f"{count} rows also occur in the {split} rows" for split, count in shared_rows(task, rows, prepared).items()
    ]
    fault = f"{name}/{ROWS_FILE}: {', '.join(shared)}" if shared else None
    return SelectionFile(digest, _labels(task, rows), fault)


def _labels(task: Task, rows: list) -> str:
    """Return the digest of the right answers and choice lengths of rows."""
    return labels_digest(*labels_of(rows, task))
