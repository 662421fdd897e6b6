"""Choose a task's selection rows, on which a study compares its trainings. prepare_task.py must have prepared the task.

    prepare_selection.py --task hellaswag_mini --train_examples 480 --validation_examples 200 --data_dir data/hellaswag_mini

Give the flags with which the task was prepared. It adds selection.jsonl to the data folder, and selection_manifest.json, which
says where the rows come from and which files they are disjoint from.
"""

import json
import sys
from pathlib import Path

from sparseft.command import Flags, run
from sparseft.records.manifests import SelectionManifest
from sparseft.records.record_file import write
from sparseft.storage.atomic import atomic_files
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours
from sparseft.study.config import TaskData
from sparseft.tasks.prepared import find_task, read_splits
from sparseft.tasks.selection_rows import (
    MANIFEST_FILE,
    ROWS_FILE,
    SELECTION,
    Candidates,
    check_selection,
    choose_selection,
    load_candidates,
)
from sparseft.tasks.task import Row, Task


def candidates_of(task: Task, data: TaskData, prepared: dict[str, list[Row]]) -> Candidates:
    """Return the rows that may become selection rows. Raises InputError if they cannot be loaded, or if there is none."""
    if data.lm_eval:
        # The import takes seconds.
        from sparseft.evaluation.lm_eval_selection import load_lm_eval_candidates

        return load_lm_eval_candidates(task, data, prepared)
    return load_candidates(task, data, prepared)


def warn(task: Task, number: int, prepared: dict[str, list[Row]], data: TaskData) -> None:
    """Print a warning if fewer rows are left than there are validation rows, though no number was set."""
    wanted = len(prepared["validation"])
    if data.selection_examples is None and number < wanted and not task.sequence_length:
        print(
            f"warning: {task.name}: only {number} rows for the split {SELECTION}, and {wanted} for validation; the choice of"
            " a training is less certain than its result",
            file=sys.stderr,
        )


def main(*, task: str, data_dir: Path, data: Flags[TaskData] = TaskData()) -> None:
    """Load the candidates, choose among them, and write both files together.

    Args:
        task: name of the task
        data_dir: folder with train.jsonl and validation.jsonl; the files are added to it
    """
    outputs = [data_dir / ROWS_FILE, data_dir / MANIFEST_FILE]
    check_ours(data_dir, "task", *outputs)
    check_apart([data_dir], [Path(place) for place in (data.local, data.lm_eval_file) if place])
    prepared_task = find_task(data_dir, task)
    prepared, digests = read_splits(data_dir, prepared_task)
    candidates = candidates_of(prepared_task, data, prepared)
    chosen = choose_selection(prepared_task, candidates, prepared, data.selection_examples)
    check_selection(prepared_task, chosen.rows, prepared, outputs[0])
    if data.lm_eval:
        # The import takes seconds.
        from sparseft.evaluation.lm_eval_rendering import check_worked_examples

        check_worked_examples(prepared_task, {"train": prepared["train"], "validation": chosen.rows})
    warn(prepared_task, len(chosen.rows), prepared, data)
    hold(outputs[1])
    with atomic_files(data_dir, MANIFEST_FILE, "task") as folder:
        file = folder / ROWS_FILE
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen.rows)
        file.write_text(lines, encoding="utf-8")
        manifest = SelectionManifest(
            task=task,
            source=candidates.source,
            split=candidates.split,
            seed=data.seed,
            examples=len(chosen.rows),
            left_out=chosen.left_out,
            overlap=chosen.overlap,
            sha256=sha256(file),
            disjoint_from=digests,
        )
        write(folder / MANIFEST_FILE, manifest)


if __name__ == "__main__":
    run(main)
