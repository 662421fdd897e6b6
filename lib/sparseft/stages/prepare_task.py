"""Prepare a task's examples: generate them, or take them from a folder or the hub.

    prepare_task.py --task hellaswag_mini --train_examples 480 --validation_examples 200 \
        --output_dir data/hellaswag_mini

It writes train.jsonl and validation.jsonl in the fields of the original data set, with manifest.json and
validation_manifest.json, which say where they come from. A task that is not built in needs --lm_eval or --kind; then
manifest.json also holds the task's definition. With --windows, the rows are those of two texts of sample_text.py or
mix_texts.py. With --splits validation, the training rows must be there already.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from sparseft.axes.tasks import BY_NAME
from sparseft.axes.tasks.task import MANIFESTS, SPLITS, SplitRows, Task
from sparseft.common.command import Flags, Folder
from sparseft.common.errors import InputError
from sparseft.data.loading import Examples, load_examples, measured_lengths, own_task
from sparseft.data.manifests import TaskManifest
from sparseft.data.overlap import MOST, find, in_words, near_copies, texts_of
from sparseft.data.rows import as_lines, write_rows
from sparseft.data.settings import TaskData
from sparseft.storage.atomic import atomic_files
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.outputs import check_apart, check_ours
from sparseft.storage.record_file import write
from sparseft.study.config import Config


def settings(config: Config, wildcards: Any, split: str) -> dict:
    """Return what decides the prepared rows of a split. A probe may lack training rows."""
    data = config.task_data(wildcards.task)
    number = {"validation_examples": data.validation_examples} if split == "validation" else {}
    rows = data.model_dump(exclude={"training", "validation_examples", "selection_examples"})
    return {"task": wildcards.task, "only_probe": wildcards.task not in config.grid.tasks, **rows, **number}


def effort(config: Config, wildcards: Any) -> dict:
    """Return what decides no training row."""
    return {"validation_examples": config.task_data(wildcards.task).validation_examples}


# Raise it when the results change.
VERSION = 1


def run(
    *,
    task: str,
    output_dir: Folder,
    data: Flags[TaskData] = TaskData(),
    only_probe: bool = False,
    splits: tuple[Literal["train", "validation"], ...] = SPLITS,
    windows: tuple[Path, ...] = (),
) -> None:
    """Load the rows, check them, and write the files of each split together.

    Args:
        task: name of the task
        output_dir: folder for the data and its manifest
        only_probe: nothing is trained on the task, so that it may lack training rows
        splits: what is written, by default both
        windows: with --text, the texts of windows that are the training and the validation rows
    """
    for split in splits:
        check_ours(output_dir / MANIFESTS[split], TaskManifest.known_by, output_dir / f"{split}.jsonl")
    check_apart([output_dir], [data.local, data.lm_eval_file, *windows])
    if len(windows) != (len(SPLITS) if data.text else 0):
        raise InputError("--text and --windows belong together", "give the windows of both splits, or neither flag")
    examples = examples_of(task, data, windows)
    if not only_probe:
        examples.task.check_trainable()
    examples.task.check(examples.rows)
    fields: dict[str, dict[str, Any]] = {"train": {"definition": examples.task.definition or None}}
    if "validation" in splits:
        fields["validation"] = {
            "validation_overlap": check_overlap(examples.task, examples.rows, is_trained_on=not only_probe),
            "lengths": asdict(measured_lengths(examples.task, examples.rows)),
        }
    if "train" not in splits and (output_dir / "train.jsonl").read_text(encoding="utf-8") != "".join(
        as_lines(examples.rows["train"])
    ):
        raise InputError(
            f"{output_dir}/train.jsonl: its source or its flags have changed since",
            f"fix the revision of the source, or delete {output_dir}/manifest.json to prepare the task again",
        )
    for split in splits:
        manifest = MANIFESTS[split]
        # A folder and texts of windows have a digest per split.
        source = {name: part[split] if isinstance(part, dict) else part for name, part in examples.source.items()}
        hold(output_dir / manifest)
        with atomic_files(output_dir / manifest, TaskManifest.known_by) as folder:
            write_rows(folder / f"{split}.jsonl", examples.rows[split])
            record = TaskManifest(
                task=task,
                source=source,
                seed=data.seed,
                examples={split: len(examples.rows[split])},
                sha256={split: sha256(folder / f"{split}.jsonl")},
                **fields[split],
            )
            write(folder / manifest, record)


def examples_of(name: str, data: TaskData, windows: tuple[Path, ...] = ()) -> Examples:
    """Return the task, its rows and their source. Raises InputError if the task is unknown or its rows cannot be
    loaded."""
    if name in BY_NAME:
        return load_examples(BY_NAME[name], data)
    if data.lm_eval:
        # The import takes seconds.
        from sparseft.data.lm_eval_examples import load_lm_eval_examples

        return load_lm_eval_examples(name, data)
    if data.kind:
        return load_examples(own_task(name, data, windows), data, windows)
    raise InputError(
        f"task {name!r} is not built in", f"give --lm_eval or --kind, or choose one of {', '.join(BY_NAME)}"
    )


def check_overlap(task: Task, rows: SplitRows, *, is_trained_on: bool) -> float:
    """Return the share of the validation rows that also occur in the training rows. Print a warning if it is not 0.

    Another warning counts those that nearly do. Raises InputError if most of them occur, and the task
    `is_trained_on`."""
    if not task.is_trainable:
        return 0.0
    (found,) = find([texts_of(task, rows["validation"])], [texts_of(task, rows["train"])])
    share = float(found.mean()) if len(found) else 0.0
    what = f"{task.name}: {in_words(share, task, 'validation')} also occur in the training rows"
    if share > MOST and is_trained_on:
        raise InputError(what, "give other validation rows, or leave these out of the training rows")
    if share:
        print(f"warning: {what}; the score says less about new examples", file=sys.stderr)
    # The words of a generated row are a template's, and those of a text are compared in windows already.
    copies = {} if task.generate or task.sequence_length else near_copies(task, rows)
    if near := [(row, other) for row, other in sorted(copies.items()) if not found[row]]:
        row, other = near[0]
        print(
            f"warning: {task.name}: {len(near)} of {len(found)} validation examples are near copies of"
            f" training rows: half of their words are there in the same order; the first is line"
            f" {row + 1} of validation.jsonl, with line {other + 1} of train.jsonl",
            file=sys.stderr,
        )
    return share
