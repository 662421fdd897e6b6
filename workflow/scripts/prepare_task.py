"""Prepare a task's examples: generate them, or take them from a folder or the hub.

    prepare_task.py --task hellaswag_mini --train_examples 480 --validation_examples 200 --output_dir data/hellaswag_mini

It writes train.jsonl and validation.jsonl in the fields of the original data set, and manifest.json, which says where they
come from.
"""

import argparse
import json
import sys
from pathlib import Path

from sparseft.errors import run_script
from sparseft.storage.atomic import atomic_files, write_json
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours
from sparseft.study.config import TaskData, add_flags, parse_section
from sparseft.tasks import get_task
from sparseft.tasks.data_source import load_rows, overlap, source_of
from sparseft.tasks.task import SPLITS, Row, Task

DATA_FLAGS = ("local", "hub", "train_examples", "validation_examples", "seed")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help="name of the task")
    add_flags(parser, TaskData, DATA_FLAGS)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the data and its manifest")
    return parser.parse_args()


def warn(task: Task, rows: dict[str, list[Row]]) -> None:
    """Print a warning if training and validation share a prompt, and one if validation repeats a prompt."""
    validation = rows["validation"]
    if shared := overlap(task, rows):
        print(
            f"warning: {task.name}: {shared} of {len(rows['train'])} training examples have the prompt of a validation"
            " example; the score says less about new examples",
            file=sys.stderr,
        )
    if repeated := len(validation) - len({task.prompt(row) for row in validation}):
        print(
            f"warning: {task.name}: {repeated} of {len(validation)} validation examples repeat the prompt of another one;"
            " standard errors and tests will be too small, because they take examples as independent",
            file=sys.stderr,
        )


def main() -> int:
    """Load the rows, check them, and write the three files together."""
    args = parse_args()
    outputs = [args.output_dir / name for name in (*(f"{split}.jsonl" for split in SPLITS), "manifest.json")]
    check_ours(args.output_dir, *outputs)
    task = get_task(args.task)
    data = parse_section(TaskData, {name: getattr(args, name) for name in DATA_FLAGS}, f"tasks.{task.name}")
    local = Path(data.local) if data.local else None
    check_apart([args.output_dir], [local])
    numbers = {"train": data.train_examples, "validation": data.validation_examples}
    rows = {split: load_rows(task, split, numbers[split], data.seed, local, data.hub) for split in SPLITS}
    task.check(rows)
    hold(outputs[-1])
    warn(task, rows)
    with atomic_files(args.output_dir, outputs[-1].name) as folder:
        files = [folder / output.name for output in outputs[:-1]]
        for split, file in zip(SPLITS, files, strict=True):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[split])
            file.write_text(lines, encoding="utf-8")
        content = {
            "task": task.name,
            "source": source_of(task, local, data.hub),
            "seed": data.seed,
            "examples": {split: len(rows[split]) for split in SPLITS},
            "train_overlap": overlap(task, rows),
            "sha256": dict(zip(SPLITS, map(sha256, files), strict=True)),
        }
        write_json(folder / outputs[-1].name, content)
    return 0


if __name__ == "__main__":
    run_script(main)
