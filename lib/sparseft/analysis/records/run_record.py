"""Read the folder of one run: each file by itself, then the files together.

A run needs a sound validation_report.json and evaluation.json. Without a sound train.json, before_merge.json, merge.json or
selection.json it stays in the tables, with blanks. Nothing is filled in.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparseft.analysis.records.evaluation_record import BeforeMergeRecord, EvaluationRecord, ScoredRecord
from sparseft.analysis.records.merge_record import MergeRecord
from sparseft.analysis.records.probe_record import ProbeRecord
from sparseft.analysis.records.record_file import RecordFile, read_file
from sparseft.analysis.records.right_answers import AnswerCheck, RightAnswers
from sparseft.analysis.records.selection_record import SelectionRecord, SelectionRows
from sparseft.analysis.records.training_record import TrainingRecord
from sparseft.analysis.records.validation_record import MaskFile, ValidationRecord, read_mask_file
from sparseft.errors import InputError
from sparseft.storage.adapter_files import ADAPTER_FILES, adapter_digest
from sparseft.study.grid import DENSE, NO_FINETUNE, Run, fill, mask_path
from sparseft.tasks.scoring import ratio_error

# Attribute of a Record -> the class that reads its file.
FILES = {
    "train": TrainingRecord,
    "before": BeforeMergeRecord,
    "merge": MergeRecord,
    "validation": ValidationRecord,
    "evaluation": EvaluationRecord,
    "selection": SelectionRecord,
}
# A run has these files only if it was trained.
TRAINED_FILES = ("train", "before")
REQUIRED_FILES = ("validation", "evaluation")
# These must be equal before and after the merge. Otherwise a difference of the results has other causes than the merge.
SAME_CONDITIONS = ("metric", "examples", "dtype", "harness", "few_shot", "loss_few_shot", "prompt_sha256")


@dataclass(frozen=True)
class Record:
    """Hold one run with its sound files. `train`, `before`, `merge` and `selection` are None if their files are absent or unsound.

    `mask` is its file as it is now; None if it is not there. `on_disk` holds the digests of the run's mask, adapter and task
    definition as they are now. Its keys are "mask", "adapter" and "definition", and a file that is absent has no key. `right_answers` compares the right answers of the evaluation with
    the validation rows, and `probe_rows` those of each probe with the rows of the probe. `selection_rows` says whether
    `selection` is about selection rows of the same data. If it has a fault, `selection` is None."""

    run: Run
    validation: ValidationRecord
    evaluation: EvaluationRecord
    train: TrainingRecord | None
    before: BeforeMergeRecord | None
    merge: MergeRecord | None
    selection: SelectionRecord | None
    mask: MaskFile | None
    on_disk: dict[str, str]
    right_answers: AnswerCheck
    probe_rows: dict[str, AnswerCheck]
    selection_rows: AnswerCheck

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
        """Return the standard error of `train_merge_gap`, from the differences by example; None if the answers differ."""
        after = self.evaluation
        before = self.before
        if before is None or not np.array_equal(after.answer_tokens, before.answer_tokens):
            return None
        return ratio_error(after.losses - before.losses, after.answer_tokens)


@dataclass(frozen=True)
class Gap:
    """Hold why a run is incomplete: a file is missing or unsound. If it is `left_out`, the run is in no table."""

    run_id: str
    left_out: bool
    reason: str


@dataclass(frozen=True)
class StudyFiles:
    """Hold what many runs of a study share: its folder, its masks, and its validation and selection rows."""

    folder: Path
    right_answers: RightAnswers
    selection_rows: SelectionRows
    masks: dict[Path, MaskFile] = field(default_factory=dict)

    def mask(self, run: Run) -> MaskFile | None:
        """Return a run's mask file; None if it is not there. Each file is read once."""
        path = self.folder / fill(mask_path(run.method), run)
        if path not in self.masks:
            if not path.is_file():
                return None
            self.masks[path] = read_mask_file(path)
        return self.masks[path]


def read_run(folder: Path, study: StudyFiles) -> tuple[Record | None, Gap | None]:
    """Return the record of a run folder, and its gap.

    The record is None if a required file is missing or unsound, or if a file belongs to another run. The gap has every
    reason, and is None if nothing is missing or unsound. Raises InputError if the folder's name is not that of a run."""
    run = Run.parse(folder.name)
    if (run.method == DENSE) != (run.sparsity == 0):
        return None, Gap(run.id, True, f"not a run of the grid: sparsity 00 and method {DENSE} go together")
    files, reasons = _read_files(folder, run)
    adapter, missing = _read_adapter(folder / "adapter")
    reasons += missing
    not_comparable = _why_not_comparable(files["before"], files["merge"], files["evaluation"])
    if not_comparable:
        files["before"] = None
        reasons.append(not_comparable)
    mismatches = list(_mismatches(run, files))
    reasons += mismatches
    is_complete = all(files[name] for name in REQUIRED_FILES) and not mismatches
    gap = Gap(run.id, not is_complete, " | ".join(reasons)) if reasons else None
    if not is_complete:
        return None, gap
    evaluation = files["evaluation"]
    selection_rows = AnswerCheck()
    if files["selection"]:
        selection_rows = study.selection_rows.check(run.task, files["selection"], evaluation)
    if selection_rows.fault:
        files["selection"] = None
    answers = study.right_answers
    mask = study.mask(run)
    digests = {"mask": mask and mask.sha256, "adapter": adapter, "definition": answers.definition(run.task)}
    record = Record(
        run,
        **files,
        mask=mask,
        on_disk={name: digest for name, digest in digests.items() if digest},
        right_answers=answers.check(run.task, evaluation.inputs.data, evaluation.rows_digest),
        probe_rows={name: _probe_rows(name, probe, answers) for name, probe in evaluation.probes.items()},
        selection_rows=selection_rows,
    )
    return record, gap


def _probe_rows(name: str, probe: ProbeRecord, answers: RightAnswers) -> AnswerCheck:
    """Compare what a probe was evaluated on with the data in the study."""
    definition_sha256 = answers.definition(name)
    if definition_sha256 and definition_sha256 != probe.definition_sha256:
        return AnswerCheck(fault=f"{name}/manifest.json has another definition than the one that was evaluated")
    return answers.check(name, probe.data_sha256, probe.rows_digest)


def _read_files(folder: Path, run: Run) -> tuple[dict[str, RecordFile | None], list[str]]:
    """Return the files of a run by attribute of its Record, None for an unsound one, and why each of these is unsound."""
    files: dict[str, RecordFile | None] = dict.fromkeys(FILES)
    reasons = []
    for name, schema in FILES.items():
        if name in TRAINED_FILES and run.mode == NO_FINETUNE:
            continue
        # Only the trainings with a name are compared on the selection rows.
        if name == "selection" and not run.training and not (folder / schema.file_name).exists():
            continue
        try:
            files[name] = read_file(folder / schema.file_name, schema)
        except InputError as error:
            reasons.append(str(error))
    return files, reasons


def _read_adapter(folder: Path) -> tuple[str | None, list[str]]:
    """Return the digest of an adapter, None if it is incomplete, and a reason per missing file.

    An absent folder gives no reason, because a run without training has no adapter."""
    if not folder.is_dir():
        return None, []
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        return None, [f"adapter: no {name}" for name in missing]
    return adapter_digest(folder), []


def _mismatches(run: Run, files: dict[str, RecordFile | None]) -> Iterator[str]:
    """Yield a reason for each file that names another run, task or mask, because its folder was copied or renamed."""
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


def _why_not_comparable(
    before: BeforeMergeRecord | None, merge: MergeRecord | None, after: EvaluationRecord | None
) -> str | None:
    """Return why the results before and after the merge cannot be compared; None if they can, or if one is missing."""
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
