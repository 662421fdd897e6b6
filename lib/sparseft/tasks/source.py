"""Where a task's rows come from: its generator, a folder, or the Hugging Face hub."""

import random
from pathlib import Path

from sparseft.errors import InputError
from sparseft.tasks import read_examples
from sparseft.tasks.task import Row, Task

SPLITS = ("train", "validation")


def load_rows(task: Task, split: str, number: int | None, seed: int, local: Path | None) -> list[Row]:
    """`number` rows of a split (all when None), chosen by `seed`; the same on every machine.

    Raises InputError where there are fewer rows, or where they cannot be had."""
    if number is not None and number < 1:
        raise InputError(f"{task.name}: {number} {split} examples are asked for", "ask for one or more")
    if task.generate:
        if local or number is None:
            raise InputError(f"{task.name} is generated", "give train_examples and validation_examples, and no local")
        return task.generate(split, number, seed)
    rows = read_examples(local / f"{split}.jsonl", task) if local else _from_hub(task, split)
    if number is None:
        return rows
    if number > len(rows):
        raise InputError(
            f"{task.name}: {len(rows)} {split} examples, {number} are asked for", f"lower {split}_examples"
        )
    return random.Random(f"{task.name}-{split}-{seed}").sample(rows, number)


def _from_hub(task: Task, split: str) -> list[Row]:
    from datasets import load_dataset

    name, configuration = task.hub
    # gsm8k has no validation split: its test split is what everybody reports
    splits = [split, "test"] if split == "validation" else [split]
    try:
        dataset = load_dataset(name, configuration)
        rows = dataset[next(known for known in splits if known in dataset)]
    except Exception as error:  # the client raises a dozen kinds, all meaning: not to be had
        raise InputError(
            f"{task.name}: {name} cannot be had from the hub ({type(error).__name__})",
            f"go online, or give tasks.{task.name}.local: a folder with train.jsonl and validation.jsonl",
        ) from None
    return [_plain(row, task) for row in rows]


def _plain(row: Row, task: Task) -> Row:
    """super_glue's boolq calls its boolean `label`; the original files and this project call it `answer`."""
    if "answer" in task.fields and "answer" not in row:
        return {**row, "answer": bool(row["label"])}
    return dict(row)
