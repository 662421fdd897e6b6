"""Read the folder of one run: each file by itself, then the files together.

A run needs a sound validation_report.json and evaluation.json. Without a sound train.json, before_merge.json or merge.json it
stays in the tables, with blanks. Nothing is filled in.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparseft.analysis.records.evaluation_record import BeforeMergeRecord, EvaluationRecord, ScoredRecord
from sparseft.analysis.records.merge_record import MergeRecord
from sparseft.analysis.records.record_file import RecordFile, read_file
from sparseft.analysis.records.right_answers import AnswerCheck, RightAnswers
from sparseft.analysis.records.training_record import TrainingRecord
from sparseft.analysis.records.validation_record import ValidationRecord
from sparseft.analysis.statistics import ratio_error
from sparseft.errors import InputError
from sparseft.storage.adapter_files import ADAPTER_FILES, adapter_digest
from sparseft.storage.hashes import sha256
from sparseft.study.grid import DENSE, NO_FINETUNE, Run, fill, mask_path

# By attribute of a Record, the class of its file.
FILES = {
    "train": TrainingRecord,
    "before": BeforeMergeRecord,
    "merge": MergeRecord,
    "validation": ValidationRecord,
    "evaluation": EvaluationRecord,
}
# A run has these files only if it was trained.
TRAINED_FILES = ("train", "before")
REQUIRED_FILES = ("validation", "evaluation")
# What must be equal before and after the merge, so that the difference of the results is the merge's.
SAME_CONDITIONS = ("metric", "examples", "dtype", "harness", "few_shot", "loss_few_shot", "prompt_sha256")


@dataclass(frozen=True)
class Record:
    """Hold one run with its sound files; `train`, `before` and `merge` are None if there is no sound one.

    `on_disk` has the digests of the files of `mask` and `adapter` that are there, as they are now. `right_answers` says how
    the right answers of the evaluation compare with the validation rows."""

    run: Run
    validation: ValidationRecord
    evaluation: EvaluationRecord
    train: TrainingRecord | None
    before: BeforeMergeRecord | None
    merge: MergeRecord | None
    on_disk: dict[str, str]
    right_answers: AnswerCheck

    @property
    def is_trained(self) -> bool:
        """Return whether the run's mode trains."""
        return self.run.mode != NO_FINETUNE

    @property
    def train_merge_gap(self) -> float | None:
        """Return the evaluation loss after the merge minus before it. It is 0 if the merge changes nothing but rounding."""
        return None if self.before is None else self.evaluation.eval_loss - self.before.eval_loss

    @property
    def train_merge_gap_value(self) -> float | None:
        """Return the metric after the merge minus before it."""
        return None if self.before is None else self.evaluation.value - self.before.value

    @property
    def train_merge_gap_standard_error(self) -> float | None:
        """Return the standard error of the gap of the loss over the pairs of examples; None if the answers differ."""
        after, before = self.evaluation, self.before
        if before is None or not np.array_equal(after.answer_tokens, before.answer_tokens):
            return None
        return ratio_error(after.losses - before.losses, after.answer_tokens)


@dataclass(frozen=True)
class Gap:
    """Hold a run with something missing or unsound. It is `left_out` if it is in no table."""

    run_id: str
    left_out: bool
    reason: str


@dataclass(frozen=True)
class StudyFiles:
    """Hold what many runs of a study share: its folder, the digests of its masks, and its validation rows."""

    folder: Path
    right_answers: RightAnswers
    masks: dict[Path, str] = field(default_factory=dict)

    def mask_digest(self, run: Run) -> str | None:
        """Return the sha256 of a run's mask file; None if it is not there. Each file is read once."""
        path = self.folder / fill(mask_path(run.method), run)
        if path not in self.masks:
            if not path.is_file():
                return None
            self.masks[path] = sha256(path)
        return self.masks[path]


def read_run(folder: Path, study: StudyFiles) -> tuple[Record | None, Gap | None]:
    """Return the record of a run folder, and the gap with every reason if something in it is missing or unsound.

    Raises InputError if the folder's name is not that of a run."""
    run = Run.parse(folder.name)
    if (run.method == DENSE) != (run.sparsity == 0):
        return None, Gap(run.id, True, f"not a run of the grid: sparsity 00 and method {DENSE} go together")
    files, reasons = _read_files(folder, run)
    adapter, missing = _read_adapter(folder / "adapter")
    reasons += missing
    if difference := _difference(files["before"], files["merge"], files["evaluation"]):
        files["before"] = None
        reasons.append(difference)
    foreign = list(_foreign(run, files))
    reasons += foreign
    complete = all(files[name] for name in REQUIRED_FILES) and not foreign
    gap = Gap(run.id, not complete, " | ".join(reasons)) if reasons else None
    if not complete:
        return None, gap
    evaluation = files["evaluation"]
    digests = {"mask": study.mask_digest(run), "adapter": adapter}
    record = Record(
        run,
        **files,
        on_disk={name: digest for name, digest in digests.items() if digest},
        right_answers=study.right_answers.check(run.task, evaluation.inputs.data, evaluation.rows_digest),
    )
    return record, gap


def _read_files(folder: Path, run: Run) -> tuple[dict[str, RecordFile | None], list[str]]:
    """Return the sound files of a run by attribute of its Record, and why others are not sound."""
    files: dict[str, RecordFile | None] = dict.fromkeys(FILES)
    reasons = []
    for name, schema in FILES.items():
        if name in TRAINED_FILES and run.mode == NO_FINETUNE:
            continue
        try:
            files[name] = read_file(folder / schema.file_name, schema)
        except InputError as error:
            reasons.append(str(error))
    return files, reasons


def _read_adapter(folder: Path) -> tuple[str | None, list[str]]:
    """Return the digest of an adapter folder, and which of its files are missing. A folder that is absent misses nothing."""
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        return None, [f"adapter: no {name}" for name in missing] if folder.is_dir() else []
    return adapter_digest(folder), []


def _foreign(run: Run, files: dict[str, RecordFile | None]) -> Iterator[str]:
    """Yield the files that name another run, task or mask. A folder that was copied or renamed is not the run."""
    sound = [file for file in files.values() if file]
    for file in sound:
        if file.run_id not in (None, run.id):
            yield f"{file.file_name}: belongs to run {file.run_id}"
    for file in sound:
        if isinstance(file, ScoredRecord) and file.task != run.task:
            yield f"{file.file_name}: belongs to task {file.task}"
    if validation := files["validation"]:
        mask = validation.mask
        if mask.method not in (None, run.method) or mask.sparsity not in (None, run.sparsity / 100):
            yield f"{validation.file_name}: of a mask of {mask.method} at {mask.sparsity}"


def _difference(
    before: BeforeMergeRecord | None, merge: MergeRecord | None, after: EvaluationRecord | None
) -> str | None:
    """Return why two results have no train-merge gap; None if they have one, or if one of them is missing."""
    if not before or not after:
        return None
    if before.taken_from and not (merge and merge.as_trained):
        return (
            "before_merge.json: taken from evaluation.json, and merge.json does not say that the merge kept every bit"
        )
    if before.taken_from and not np.array_equal(before.losses, after.losses):
        return "before_merge.json: taken from evaluation.json, and its losses differ"
    for name in SAME_CONDITIONS:
        if getattr(before, name) != getattr(after, name):
            return f"before_merge.json: {name} is {getattr(before, name)}, in evaluation.json {getattr(after, name)}"
    return None
