"""Read the folder of one run: each record by itself, then the records together.

A run needs a sound validation_report.json and evaluation.json. Without another sound record it stays in the tables,
with blanks. Nothing is filled in.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

from sparseft.axes.grid import DATA, NO_FINETUNE, Run, fill, mask_path, start_of
from sparseft.axes.modes import get_mode
from sparseft.axes.modes.mode import ADAPTER
from sparseft.common.errors import InputError
from sparseft.data.prepared import find_task
from sparseft.evaluation.evaluation_record import BeforeMergeRecord, EvaluationRecord, ScoredRecord, SelectionRecord
from sparseft.pruning.masks.validation_record import ValidationRecord
from sparseft.serving.engine_record import EnginesRecord
from sparseft.storage.record import FILES_OF, trained_digest
from sparseft.storage.record_file import RunRecord, files_digest, read_record_file
from sparseft.training.lora.merge_record import MergeRecord
from sparseft.training.training_record import TrainingRecord

RECORDS = (
    TrainingRecord,
    BeforeMergeRecord,
    MergeRecord,
    ValidationRecord,
    EvaluationRecord,
    SelectionRecord,
    EnginesRecord,
)
# The name of a record's file, without its ending -> the record, in the order of the stages.
SCHEMAS: dict[str, type[RunRecord]] = {Path(schema.file_name).stem: schema for schema in RECORDS}
# What several records of a run name -> the fields with its sha256, in the order of the stages. `start` is the adapter
# from which a training starts.
NAMED = {
    "base": "train.inputs.model before_merge.inputs.model merge.inputs.model validation_report.inputs.base",
    "mask": "train.inputs.mask before_merge.inputs.mask merge.inputs.mask validation_report.inputs.mask",
    "adapter": "train.outputs.adapter before_merge.inputs.adapter merge.inputs.adapter",
    "merged": "merge.outputs validation_report.inputs.checkpoint evaluation.inputs.model selection.inputs.model"
    " engines.inputs.model",
    "data": "before_merge.inputs.data evaluation.inputs.data selection.inputs.validation",
    "train": "validation_report.mask.train_sha256 train.inputs.train before_merge.inputs.train evaluation.inputs.train"
    " selection.inputs.train",
    "start": "train.inputs.initial_adapter",
    "definition": "train.definition_sha256 before_merge.definition_sha256 evaluation.definition_sha256"
    " selection.definition_sha256",
}


@dataclass(frozen=True)
class RunFiles:
    """Hold the sound records of one run. An absent or unsound one is None.

    `digests` has by what is named (NAMED) the digest that each file names, and that of the file itself as it is now.
    `reasons` says what is missing or unsound. `date` is that of the evaluation."""

    run: Run
    validation_report: ValidationRecord
    evaluation: EvaluationRecord
    train: TrainingRecord | None
    before_merge: BeforeMergeRecord | None
    merge: MergeRecord | None
    selection: SelectionRecord | None
    engines: EnginesRecord | None
    digests: dict[str, dict[str, str | None]]
    reasons: list[str]
    date: str

    @property
    def start(self) -> Run | None:
        """Return the run whose training that of this run continues; None if it starts from the pruned model."""
        return start_of(self.run, getattr(self.train, "recover_on", None))

    @property
    def first_digests(self) -> dict[str, str | None]:
        """Return by what is named the digest that the first file names."""
        return {what: next(iter(digests.values()), None) for what, digests in self.digests.items()}

    def is_on_disk(self, what: str) -> bool:
        """Return whether the file of what is named was there, so that its digest was compared."""
        return _itself(what) in self.digests[what]


def read_run(folder: Path, study: Path, sha256: Callable[[Path], str]) -> RunFiles:
    """Return the records of a run folder. `study` is the folder that holds masks/ and data/.

    Raises InputError if no table can have the run, with every reason."""
    run = Run.parse(folder.name)
    records, reasons = _read_records(folder, run)
    # A run without training has none.
    trained = folder / (get_mode(run.mode).trains or ADAPTER)
    missing = [name for name in FILES_OF[trained.name] if not (trained / name).is_file()]
    reasons += [f"{trained.name}: no {name}" for name in missing if trained.is_dir()]
    mismatches = list(_mismatches(run, records))
    if mismatches or not records["evaluation"] or not records["validation_report"]:
        raise InputError(" | ".join(reasons + mismatches), "make the run again")
    digests = _named_digests(records)
    if run.mode == NO_FINETUNE:
        digests["adapter"][f"mode {NO_FINETUNE}"] = None
    if (mask := study / fill(mask_path(run.method), run)).is_file():
        digests["mask"][_itself("mask")] = sha256(mask)
    if not missing:
        digests["adapter"][_itself("adapter")] = trained_digest(trained)
    with suppress(InputError):
        data = DATA.format(task=run.task)
        places = [study / data, *sorted(study.glob(f"{data}-*"))]
        folder_of_task = next((place for place in places if place.is_dir()), places[0])
        if definition := find_task(folder_of_task, run.task).definition_sha256:
            digests["definition"][_itself("definition")] = definition
    evaluated = datetime.fromtimestamp((folder / EvaluationRecord.file_name).stat().st_mtime, UTC)
    return RunFiles(run, **records, digests=digests, reasons=reasons, date=evaluated.date().isoformat())


def _read_records(folder: Path, run: Run) -> tuple[dict[str, Any], list[str]]:
    """Return the records of a run, None for an unsound one, and why each of these is unsound."""
    records: dict[str, Any] = dict.fromkeys(SCHEMAS)
    reasons = []
    is_trained = run.mode != NO_FINETUNE
    # Only the trainings with a name are compared on the selection rows. No study needs the check of the engines.
    is_needed = {"train": is_trained, "before_merge": is_trained, "selection": bool(run.training), "engines": False}
    for name, schema in SCHEMAS.items():
        path = folder / schema.file_name
        if not is_needed.get(name, True) and not path.exists():
            continue
        try:
            record = read_record_file(path, schema)
        except InputError as error:
            reasons.append(str(error))
            continue
        # The answers of a whole study would fill the memory.
        records[name] = record.without_answers() if isinstance(record, ScoredRecord) else record
        if isinstance(record, EnginesRecord):
            # The columns of these engines are blank.
            reasons += [f"{path.name}: {engine} does not agree with transformers" for engine in record.differing]
    return records, reasons


def _mismatches(run: Run, records: Mapping[str, Any]) -> Iterator[str]:
    """Yield a reason for each record that names another run, task or mask, as in a folder that was copied or
    renamed."""
    for record in filter(None, records.values()):
        if record.run_id not in (None, run.id):
            yield f"{record.file_name}: belongs to run {record.run_id}"
        if getattr(record, "task", run.task) != run.task:
            yield f"{record.file_name}: on the task {record.task}"
    if report := records["validation_report"]:
        mask = report.mask
        if mask.method not in (None, run.method) or mask.sparsity not in (None, run.sparsity / 100):
            yield f"{report.file_name}: of a mask of {mask.method} at {mask.sparsity}"


def _named_digests(records: Mapping[str, Any]) -> dict[str, dict[str, str | None]]:
    """Return what is named -> the name of a file -> the digest that its record names. Absent records name none."""
    digests: dict[str, dict[str, str | None]] = {}
    for what, fields in NAMED.items():
        digests[what] = {}
        for name, _, field in (field.partition(".") for field in fields.split()):
            if record := records.get(name):
                value = attrgetter(field)(record)
                digests[what][record.file_name] = files_digest(value) if isinstance(value, dict) else value
        # A validation without a base names none, and no more does a mask that was not calibrated on the task.
        if digests[what].get(ValidationRecord.file_name, "") is None:
            del digests[what][ValidationRecord.file_name]
    return digests


def _itself(what: str) -> str:
    """Return the name of a file among those that name its digest."""
    return f"the {what}'s file"
