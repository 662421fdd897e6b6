"""Measure the lengths of a task's prepared examples, for the estimates of memory and time.

A token is counted as four characters, because the data of a task does not depend on a model.
"""

import json
import math

import numpy as np

from sparseft.tasks.task import Row, Task

CHARACTERS_PER_TOKEN = 4


def measured_lengths(task: Task, rows: dict[str, list[Row]]) -> dict[str, int | list[int]]:
    """Return the fields of Lengths as measured on the rows of both splits, with `few_shot` and `max_new_tokens`.

    The examples of a text are the sequences into which its documents are cut."""
    every_row = [*rows["train"], *rows["validation"]]
    if task.sequence_length:
        characters = [sum(len(row["text"]) for row in documents) for documents in rows.values()]
        numbers = [max(1, _tokens(number) // task.sequence_length) for number in characters]
        mean = long = answer = task.sequence_length
    else:
        numbers = [len(split) for split in rows.values()]
        answers = [len(task.answer(row)) for row in every_row]
        wholes = [len(task.prompt(row)) + length for row, length in zip(every_row, answers, strict=True)]
        mean, long, answer = _tokens(np.mean(wholes)), _tokens(np.quantile(wholes, 0.99)), _tokens(np.mean(answers))
    size = sum(len(json.dumps(row, ensure_ascii=False).encode()) + 1 for row in every_row)
    return {
        "rows": numbers,
        "bytes": math.ceil(size / sum(numbers)),
        "mean": mean,
        "long": long,
        "answer": answer,
        "choices": max(len(task.choices(row)) for row in every_row) if task.choices else 0,
        "few_shot": task.few_shot,
        "max_new_tokens": task.max_new_tokens,
    }


def _tokens(characters: float) -> int:
    """Return the number of tokens that a number of characters makes, roughly."""
    return max(1, math.ceil(characters / CHARACTERS_PER_TOKEN))
