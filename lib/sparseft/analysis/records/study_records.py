"""Read all run folders of a study, and name the runs that are missing."""

import os
from itertools import product
from pathlib import Path

from sparseft.analysis.records.right_answers import RightAnswers
from sparseft.analysis.records.run_record import Gap, Record, StudyFiles, read_run
from sparseft.analysis.records.selection_record import SelectionRows
from sparseft.errors import InputError
from sparseft.study.config import Config, clashing_probes
from sparseft.study.grid import DENSE, NO_FINETUNE, Run
from sparseft.study.targets import runs as configured_runs


def read_runs(results_dir: Path, study: Config | None = None) -> tuple[list[Record], list[Gap]]:
    """Read every run folder; return the runs, and a gap for each run of the grid that is missing or unsound.

    The grid is that of `study`. Without a study, it is the one that the runs make up. Raises InputError if no run is complete, or
    if columns of two probes would have one name."""
    if not results_dir.is_dir():
        raise InputError(f"{results_dir}: no such folder", "give the folder that holds the runs, or make them first")
    # A hidden folder is still being written.
    folders = sorted(path for path in results_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    folder = study_folder(results_dir)
    shared = StudyFiles(folder, RightAnswers(folder), SelectionRows(folder))
    records: list[Record] = []
    gaps: list[Gap] = []
    for path in folders:
        record, gap = _read_folder(path, shared)
        if record:
            records.append(record)
        if gap:
            gaps.append(gap)
    gaps += _missing_runs(results_dir, study, records)
    gaps = _with_missing_probes(gaps, records, study)
    gaps.sort(key=lambda gap: gap.run_id)
    if not records:
        first = f" (the first: {gaps[0].run_id}: {gaps[0].reason})" if gaps else ""
        raise InputError(f"{results_dir}: {len(folders)} run folders, none complete{first}", "run the study first")
    if clash := clashing_probes(name for record in records for name in record.evaluation.probes):
        raise InputError(f"{results_dir}: the probes {clash}", "analyse the runs of each in a folder of their own")
    return records, gaps


def study_folder(results_dir: Path) -> Path:
    """Return the folder that holds masks/ and models/.

    It is two above the runs as the user names them, because a folder between may be a link."""
    return Path(os.path.normpath(results_dir / "../.."))


def _read_folder(folder: Path, study: StudyFiles) -> tuple[Record | None, Gap | None]:
    """Return the record and the gap of a run folder. Any error in its files is a gap, so that the other runs are analysed."""
    try:
        return read_run(folder, study)
    except Exception as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return None, Gap(_in_one_line(folder.name), True, _in_one_line(reason))


def _in_one_line(text: str) -> str:
    """Return a text from outside with its line breaks, and its bytes that are not text, written as escapes."""
    return ascii(text)[1:-1]


def _missing_runs(results_dir: Path, study: Config | None, records: list[Record]) -> list[Gap]:
    """Return a gap for each run of the grid that has no folder."""
    if study:
        grid, source = configured_runs(study), "the configuration asks for it"
    else:
        grid, source = _grid_of([record.run for record in records]), "the grid of the other runs has it"
    return [
        Gap(run.id, True, f"no such folder, though {source}") for run in grid if not (results_dir / run.id).is_dir()
    ]


def _with_missing_probes(gaps: list[Gap], records: list[Record], study: Config | None) -> list[Gap]:
    """Return the gaps, and what each run lacks of the probes that another run has or the configuration requests.

    A run has no probe of its own task."""
    probes = dict.fromkeys(study.evaluation.probes if study else ())
    probes |= dict.fromkeys(name for record in records for name in record.evaluation.probes)
    reasons = {gap.run_id: gap for gap in gaps}
    for record in records:
        lacking = [name for name in probes if name not in (*record.evaluation.probes, record.run.task)]
        if lacking:
            known = reasons.get(record.run.id)
            words = [known.reason] if known else []
            words.append(f"{record.evaluation.file_name}: no result on the probe {', '.join(lacking)}")
            reasons[record.run.id] = Gap(record.run.id, False, " | ".join(words))
    return list(reasons.values())


def _grid_of(runs: list[Run]) -> list[Run]:
    """Return the grid that `runs` make up: per model and task, methods x sparsities x modes x trainings x seeds.

    Dense and pruned runs have separate grids. Untrained runs need one seed, whatever seeds the trained ones have."""
    grid = set()
    for model, task, dense in {(run.model, run.task, run.method == DENSE) for run in runs}:
        members = [run for run in runs if (run.model, run.task, run.method == DENSE) == (model, task, dense)]
        methods = {run.method for run in members}
        sparsities = {run.sparsity for run in members}
        for trained in (False, True):
            chosen = [run for run in members if (run.mode != NO_FINETUNE) == trained]
            modes = {run.mode for run in chosen}
            trainings = {run.training for run in chosen}
            seeds = {run.seed for run in chosen}
            for *cell, training in product(methods, sparsities, modes, seeds, trainings):
                grid.add(Run(model, task, *cell, training=training))
    return sorted(grid)
