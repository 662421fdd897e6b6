"""Read the folder of one run: each record by itself, then the records together.

A run needs a sound validation_report.json and evaluation.json. Without another sound record it stays in the tables,
with blanks. Nothing is filled in. The records in OPTIONAL are left out, and no fault, if they are of an earlier model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from sparseft.analysis.consistency import Digests, digests_of
from sparseft.data.prepared import find_task
from sparseft.errors import InputError
from sparseft.evaluation.evaluation_record import BeforeMergeRecord, EvaluationRecord, ScoredRecord, SelectionRecord
from sparseft.export.engine_record import EnginesRecord
from sparseft.grid import (
    DATA,
    NO_FINETUNE,
    Run,
    fill,
    mask_path,
    start_of,
)
from sparseft.lora.merge_record import MergeRecord
from sparseft.masks.validation_record import ValidationRecord
from sparseft.modes import get_mode
from sparseft.modes.mode import ADAPTER, WEIGHTS
from sparseft.records.record_file import RunRecord, read_record_file
from sparseft.storage.hashes import sha256
from sparseft.storage.record import ADAPTER_FILES, TRAINED_TENSORS, trained_digest
from sparseft.training.training_record import TrainingRecord

SCHEMAS: dict[str, type[RunRecord]] = {
    "train": TrainingRecord,
    "before": BeforeMergeRecord,
    "merge": MergeRecord,
    "validation": ValidationRecord,
    "evaluation": EvaluationRecord,
    "selection": SelectionRecord,
    "engines": EnginesRecord,
}
# No other record depends on them. A run that was asked for alone may lack them, or have those of its model before that.
OPTIONAL = ("before", "selection", "engines")
# What a training hands on -> its files.
FILES_OF = {ADAPTER: ADAPTER_FILES, WEIGHTS: (TRAINED_TENSORS,)}


@dataclass(frozen=True)
class RunFiles:
    """Hold the sound records of one run. `train` and `merge` are None if absent or unsound, those in OPTIONAL also if
    outdated.

    `on_disk` holds the digests of the run's mask, adapter and task definition as they are now. `reasons` says what is
    missing or unsound. `date` is that of the evaluation."""

    run: Run
    validation: ValidationRecord
    evaluation: EvaluationRecord
    train: TrainingRecord | None
    before: BeforeMergeRecord | None
    merge: MergeRecord | None
    selection: SelectionRecord | None
    engines: EnginesRecord | None
    on_disk: dict[str, str]
    reasons: list[str]
    date: str

    @cached_property
    def digests(self) -> Digests:
        """Return what is named -> the name of a file -> the digest that it names. Optional records are left out."""
        named = digests_of({name: None if name in OPTIONAL else getattr(self, name) for name in SCHEMAS})
        found = {
            what: {SCHEMAS[name].file_name: digest for name, digest in digests.items()}
            for what, digests in named.items()
        }
        for what, digest in self.on_disk.items():
            found[what][f"the {what}'s file"] = digest
        if self.run.mode == NO_FINETUNE:
            found["adapter"][f"mode {NO_FINETUNE}"] = None
        return found

    @property
    def start(self) -> Run | None:
        """Return the run whose training that of this run continues; None if it starts from the pruned model."""
        return start_of(self.run, getattr(self.train, "recover_on", None))


class SharedFiles:
    """Read what many runs of a study share: its masks, and the definitions of its tasks. Each file is read once."""

    def __init__(self, folder: Path) -> None:
        """Read from the folder that holds masks/ and data/."""
        self.folder = folder
        self.sha256 = cache(sha256)
        self.definition = cache(self._definition)

    def mask(self, run: Run) -> str | None:
        """Return the sha256 of a run's mask file; None if it is not there."""
        path = self.folder / fill(mask_path(run.method), run)
        return self.sha256(path) if path.is_file() else None

    def _definition(self, task: str) -> str | None:
        """Return the digest of a task's definition in the manifest of its data; None if it is built in or not there."""
        try:
            return find_task(self.folder / DATA.format(task=task), task).definition_sha256
        except InputError:
            return None


def read_run(folder: Path, shared: SharedFiles) -> RunFiles:
    """Return the records of a run folder. Raises InputError if no table can have the run, with every reason."""
    run = Run.parse(folder.name)
    records, reasons = _read_records(folder, run)
    # A run without training has none.
    trained = folder / (get_mode(run.mode).trains or ADAPTER)
    missing = [name for name in FILES_OF[trained.name] if not (trained / name).is_file()]
    reasons += [f"{trained.name}: no {name}" for name in missing if trained.is_dir()]
    mismatches = list(_mismatches(run, records))
    evaluation = records["evaluation"]
    if mismatches or not evaluation or not records["validation"]:
        raise InputError(" | ".join(reasons + mismatches), "make the run again")
    reasons += _leave_out_outdated(records, folder)
    adapter = None if missing else trained_digest(trained)
    digests = {"mask": shared.mask(run), "adapter": adapter, "definition": shared.definition(run.task)}
    on_disk = {name: digest for name, digest in digests.items() if digest}
    evaluated = datetime.fromtimestamp((folder / evaluation.file_name).stat().st_mtime, UTC)
    return RunFiles(run, **records, on_disk=on_disk, reasons=reasons, date=evaluated.date().isoformat())


def _read_records(folder: Path, run: Run) -> tuple[dict[str, Any], list[str]]:
    """Return the records of a run by attribute, None for an unsound one, and why each of these is unsound."""
    records: dict[str, Any] = dict.fromkeys(SCHEMAS)
    reasons = []
    for name, schema in SCHEMAS.items():
        path = folder / schema.file_name
        if name in ("train", "before") and run.mode == NO_FINETUNE:
            continue
        # Only the trainings with a name are compared on the selection rows. No study needs the check of the engines.
        if (name == "engines" or (name == "selection" and not run.training)) and not path.exists():
            continue
        try:
            record = read_record_file(path, schema)
            # The answers of a whole study would fill the memory.
            records[name] = record.without_answers() if isinstance(record, ScoredRecord) else record
            # The columns of these engines are blank.
            differing = getattr(record, "differing", [])
            reasons += [f"{path.name}: {engine} does not agree with transformers" for engine in differing]
        except InputError as error:
            reasons.append(str(error))
    return records, reasons


def _mismatches(run: Run, records: dict) -> Iterator[str]:
    """Yield a reason for each record that names another run, task or mask, as in a folder that was copied or
    renamed."""
    for record in filter(None, records.values()):
        if record.run_id not in (None, run.id):
            yield f"{record.file_name}: belongs to run {record.run_id}"
        if getattr(record, "task", run.task) != run.task:
            yield f"{record.file_name}: on the task {record.task}"
    if validation := records["validation"]:
        mask = validation.mask
        if mask.method not in (None, run.method) or mask.sparsity not in (None, run.sparsity / 100):
            yield f"{validation.file_name}: of a mask of {mask.method} at {mask.sparsity}"


def _leave_out_outdated(records: dict[str, Any], folder: Path) -> Iterator[str]:
    """Replace the optional records that name other files than the merge and the evaluation by None. Yield a reason for
    each."""
    digests = digests_of(records)
    for name in OPTIONAL:
        others = []
        for what, named in digests.items():
            now = {named[stage] for stage in ("merge", "evaluation") if stage in named}
            if name in named and now - {named[name]}:
                others.append(what)
        if others:
            record, records[name] = records[name], None
            what = f"of an earlier model or of other rows (by the hash: {', '.join(others)}), so it is left out"
            yield f"{record.file_name}: {what}; to make it again: snakemake {folder / record.file_name}"
