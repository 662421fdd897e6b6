"""Choose a task's selection rows, on which a study compares its trainings. prepare_task.py must have prepared the task.

    prepare_selection.py --task hellaswag_mini --train_examples 480 --validation_examples 200 \
        --data_dir data/hellaswag_mini

Give the flags with which the task was prepared. It adds selection.jsonl to the data folder, and
selection_manifest.json, which says where the rows come from and which files they are disjoint from.
"""

from pathlib import Path
from typing import Any

from sparseft.common.command import Flags
from sparseft.data.manifests import SelectionManifest
from sparseft.data.prepared import find_task, read_splits
from sparseft.data.rows import write_rows
from sparseft.data.selection_rows import MANIFEST_FILE, ROWS_FILE, SELECTION, choose_selection, load_candidates
from sparseft.data.settings import TaskData
from sparseft.storage.atomic import atomic_files
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.outputs import check_apart, check_ours
from sparseft.storage.record import first_key
from sparseft.storage.record_file import write
from sparseft.study.config import Config


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the selection rows of a task."""
    return {"task": wildcards.task, **config.task_data(wildcards.task).model_dump(exclude={"training"})}


# Raise it when the results change.
VERSION = 1


def run(*, task: str, data_dir: Path, data: Flags[TaskData] = TaskData(), windows: tuple[Path, ...] = ()) -> None:
    """Load the candidates, choose among them, and write both files together.

    Args:
        task: name of the task
        data_dir: folder with train.jsonl and validation.jsonl; the files are added to it
        windows: texts of windows from which prepare_task.py prepared the task
    """
    check_apart([data_dir], [data.local, data.lm_eval_file, *windows])
    record = data_dir / MANIFEST_FILE, first_key("selection_rows")
    check_ours(*record, data_dir / ROWS_FILE)
    scored = find_task(data_dir, task)
    prepared, digests = read_splits(data_dir, scored)
    if data.lm_eval:
        # The import takes seconds.
        from sparseft.data.lm_eval_examples import load_lm_eval_candidates

        candidates = load_lm_eval_candidates(scored, data, prepared)
    else:
        candidates = load_candidates(scored, data, prepared, windows)
    rows, left_out, overlap = choose_selection(scored, candidates, prepared, data.selection_examples)
    scored.check({"train": prepared["train"], SELECTION: rows}, SELECTION)
    hold(data_dir / MANIFEST_FILE)
    with atomic_files(*record) as folder:
        write_rows(folder / ROWS_FILE, rows)
        manifest = SelectionManifest(
            task=task,
            source=candidates.source,
            split=candidates.split,
            seed=data.seed,
            examples=len(rows),
            left_out=left_out,
            overlap=overlap,
            sha256=sha256(folder / ROWS_FILE),
            disjoint_from=digests,
        )
        write(folder / MANIFEST_FILE, manifest)
