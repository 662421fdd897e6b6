"""Measure the lengths of a task's prepared examples, for the estimates of memory and time.

A token is counted as four characters, because the data of a task does not depend on a model.
"""

import json
import math

import numpy as np

from sparseft.tasks.task import Row, Task

CHARACTERS_PER_TOKEN = 4


def measured_lengths(task: Task, rows: dict[str, list[Row]]) -> dict[str, int | list[int]]:
    """Return the fields of Lengths as measured on the rows of both splits, with `few_shot` and `max_new_tokens`."""
    if task.sequence_length:
        return _packed_lengths(task.sequence_length, rows)
    every_row = [*rows["train"], *rows["validation"]]
    answers = [len(task.answer(row)) for row in every_row]
    wholes = [len(task.prompt(row)) + answer for row, answer in zip(every_row, answers, strict=True)]
    lines = [len(json.dumps(row, ensure_ascii=False).encode()) + 1 for row in every_row]
    return {
        "rows": [len(rows["train"]), len(rows["validation"])],
        "bytes": math.ceil(np.mean(lines)),
        "mean": _tokens(np.mean(wholes)),
        "long": _tokens(np.quantile(wholes, 0.99)),
        "answer": _tokens(np.mean(answers)),
        "choices": max(len(task.choices(row)) for row in every_row) if task.choices else 0,
        "few_shot": task.few_shot,
        "max_new_tokens": task.max_new_tokens,
    }


def _packed_lengths(length: int, rows: dict[str, list[Row]]) -> dict[str, int | list[int]]:
    """Return the lengths of documents that are cut into sequences of `length` tokens. `rows` counts the sequences."""
    characters = {split: sum(len(row["text"]) for row in documents) for split, documents in rows.items()}
    sequences = {split: max(1, _tokens(number) // length) for split, number in characters.items()}
    size = sum(len(json.dumps(row, ensure_ascii=False).encode()) + 1 for split in rows for row in rows[split])
    return {
        "rows": [sequences["train"], sequences["validation"]],
        "bytes": math.ceil(size / sum(sequences.values())),
        "mean": length,
        "long": length,
        "answer": length,
        "choices": 0,
        "few_shot": 0,
        "max_new_tokens": 0,
    }


def _tokens(characters: float) -> int:
    """Return the number of tokens that a number of characters makes, roughly."""
    return max(1, math.ceil(characters / CHARACTERS_PER_TOKEN))
