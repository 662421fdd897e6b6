"""The measured lengths of prepared examples. A token is four characters."""

import json

from sparseft.tasks import BY_NAME
from sparseft.tasks.measured_lengths import measured_lengths
from sparseft.tasks.text import task_of


def test_the_lengths_are_those_of_the_rows():
    task = BY_NAME["boolq"]
    rows = {
        split: [{"passage": "p" * number, "question": "q", "answer": True} for number in numbers]
        for split, numbers in (("train", [40, 120]), ("validation", [80]))
    }
    size = sum(len(json.dumps(row)) + 1 for split in rows.values() for row in split)
    # A prompt is its passage and 21 characters, and each answer is "yes".
    assert measured_lengths(task, rows) == {
        "rows": [2, 1], "bytes": -(-size // 3), "mean": 26, "long": 36, "answer": 1, "choices": 2, "few_shot": 0,
        "max_new_tokens": 0,
    }  # fmt: skip


def test_the_lengths_of_a_text_are_those_of_its_sequences():
    task = task_of("wiki", {"kind": "text", "length": 10})
    rows = {"train": [{"text": "a" * 300}, {"text": "b" * 100}], "validation": [{"text": "c" * 30}]}
    lengths = measured_lengths(task, rows)
    # 400 characters are 10 sequences.
    assert lengths["rows"] == [10, 1]
    assert lengths["mean"] == lengths["long"] == lengths["answer"] == 10
    assert lengths["bytes"] == -(-sum(len(json.dumps(row)) + 1 for split in rows for row in rows[split]) // 11)
