"""Prepare a task's examples: generated, from a folder, or from the hub.

    prepare_task.py --task hellaswag_mini --train_examples 480 --validation_examples 200 --output_dir data/hellaswag_mini

Writes train.jsonl and validation.jsonl in the fields of the original data set, and manifest.json: where they come from.
"""

import argparse
import json
import sys
from pathlib import Path

from sparseft.errors import run_script
from sparseft.storage.files import atomic_files, check_apart, check_ours, check_writable, hold, mark, sha256
from sparseft.study.config import TaskData, add_flags, parse_section
from sparseft.tasks import get_task
from sparseft.tasks.source import SPLITS, load_rows, overlap, source_of

ASKED = ("local", "hub", "train_examples", "validation_examples", "seed")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help="name of the task")
    add_flags(parser, TaskData, ASKED)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the data and its manifest")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    outputs = [args.output_dir / name for name in (*(f"{split}.jsonl" for split in SPLITS), "manifest.json")]
    check_writable(*outputs)
    check_ours(args.output_dir, *outputs)
    task = get_task(args.task)
    asked = parse_section(TaskData, {name: getattr(args, name) for name in ASKED}, f"tasks.{task.name}")
    local = Path(asked.local) if asked.local else None
    check_apart([args.output_dir], [local])
    numbers = (asked.train_examples, asked.validation_examples)
    rows = {
        split: load_rows(task, split, number, asked.seed, local, asked.hub)
        for split, number in zip(SPLITS, numbers, strict=True)
    }
    task.check(rows)
    hold(outputs[-1])
    shared = overlap(task, rows)
    if shared:
        print(f"warning: {task.name}: {shared} of {len(rows['train'])} training examples have the prompt of a"
              " validation example: its score is no test of them", file=sys.stderr)  # fmt: skip
    repeated = len(rows["validation"]) - len({task.prompt(row) for row in rows["validation"]})
    if repeated:
        print(f"warning: {task.name}: {repeated} of {len(rows['validation'])} validation examples repeat another's prompt:"
              " errors and tests will take them for independent", file=sys.stderr)  # fmt: skip
    with atomic_files(*outputs) as (*files, manifest):
        for split, file in zip(SPLITS, files, strict=True):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[split])
            file.write_text(lines, encoding="utf-8")
        content = {"task": task.name, "source": source_of(task, local, asked.hub), "seed": asked.seed,
                   "examples": {split: len(rows[split]) for split in SPLITS}, "train_overlap": shared,
                   "sha256": dict(zip(SPLITS, map(sha256, files), strict=True))}  # fmt: skip
        manifest.write_text(json.dumps(content, indent=2) + "\n")
        mark(args.output_dir)
    return 0


if __name__ == "__main__":
    run_script(main)
