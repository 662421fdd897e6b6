"""Prepare a task's examples: generated, from a folder, or from the hub.

    prepare_task.py --task hellaswag_mini --train_examples 480 --validation_examples 200 --output_dir data/hellaswag_mini

Writes train.jsonl and validation.jsonl in the fields of the original data set, and manifest.json: where they come from.
"""

import argparse
import json
import sys
from pathlib import Path

from sparseft.errors import run_script
from sparseft.files import atomic_file, sha256, write_json
from sparseft.tasks import get_task
from sparseft.tasks.source import SPLITS, load_rows, overlap, source_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--local", type=Path, help="folder with train.jsonl and validation.jsonl, instead of the hub")
    parser.add_argument("--hub", help="ORG/NAME[/CONFIGURATION][@REVISION]; lm-eval's, newest, when left out")
    parser.add_argument("--train_examples", type=int, help="all when left out")
    parser.add_argument("--validation_examples", type=int, help="all when left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    task = get_task(args.task)
    numbers = (args.train_examples, args.validation_examples)
    splits = {
        split: load_rows(task, split, number, args.seed, args.local, args.hub)
        for split, number in zip(SPLITS, numbers, strict=True)
    }
    shared = overlap(task, splits)
    if shared:
        print(f"warning: {task.name}: {shared} of {len(splits['train'])} training examples have the prompt of a"
              " validation example: its score is no test of them", file=sys.stderr)  # fmt: skip
    for split, rows in splits.items():
        with atomic_file(args.output_dir / f"{split}.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    digests = {split: sha256(args.output_dir / f"{split}.jsonl") for split in SPLITS}
    examples = {split: len(rows) for split, rows in splits.items()}
    write_json(args.output_dir / "manifest.json",
               {"task": task.name, "source": source_of(task, args.local, args.hub), "seed": args.seed,
                "examples": examples, "train_overlap": shared, "sha256": digests})  # fmt: skip
    return 0


if __name__ == "__main__":
    run_script(main)
