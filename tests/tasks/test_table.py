"""The table of the tasks, and what a new task needs: its file, and its name in the table."""

from pathlib import Path

import lm_eval
import torch
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import apply_template
from sparseft.evaluation.evaluate import evaluate
from sparseft.language_model.model import load_model
from sparseft.records.evaluation_record import EvaluationRecord
from sparseft.tasks import BY_NAME, TASKS
from sparseft.tasks.metrics import ACC, ACC_NORM
from sparseft.tasks.task import Lengths, Row, Task
from tiny_models import save_tiny


def test_every_task_is_complete():
    assert list(BY_NAME) == [task.name for task in TASKS]
    for task in TASKS:
        assert task.headline in task.metrics and task.headline.standard_error
        assert (task.hub is None) == (task.generate is not None) == (task.lengths.rows == (0, 0))
        assert (
            (task.choices is None) == (task.label is None) == (task.max_new_tokens > 0) == (task.lengths.choices == 0)
        )


# What tasks/arc_easy.py would hold.
def prompt(row: Row) -> str:
    """Return the question."""
    return f"Question: {row['question']}\nAnswer:"


def choices(row: Row) -> list[str]:
    """Return the answers."""
    return row["choices"]["text"]


def label(row: Row) -> int:
    """Return the index of the right answer."""
    return row["choices"]["label"].index(row["answerKey"])


ARC_EASY = Task(
    name="arc_easy",
    fields={"question": str, "choices": dict, "answerKey": str},
    prompt=prompt,
    answer=lambda row: choices(row)[label(row)],
    choices=choices,
    label=label,
    headline=ACC_NORM,
    metrics=(ACC, ACC_NORM),
    lengths=Lengths(rows=(2251, 570), bytes=350, mean=40, long=100, answer=5, choices=4),
    hub="allenai/ai2_arc/ARC-Easy@COMMIT",
)


def arc_row(number: int, answers: list[str]) -> Row:
    keys = [str(place) for place in range(1, len(answers) + 1)]
    return {
        "question": f"Which of {number} stones is the hardest?",
        "choices": {"text": answers, "label": keys},
        "answerKey": keys[number % len(keys)],
    }


def test_a_new_task_is_evaluated_and_read_without_any_other_change(tmp_path):
    model = load_model(save_tiny("llama", tmp_path, torch.float32), torch.device("cpu"))
    rows = {
        "train": [arc_row(number, ["chalk", "diamond"]) for number in range(2)],
        "validation": [
            arc_row(number, ["chalk", "a diamond", "coal", "slate"][: 3 + number % 2]) for number in range(4, 8)
        ],
    }
    definition = load_yaml(Path(lm_eval.__file__).parent / "tasks/arc/arc_easy.yaml")
    for row in rows["validation"]:
        assert ARC_EASY.prompt(row) == apply_template(definition["doc_to_text"], row)
    record = evaluate(*model, ARC_EASY, rows, batch_size=2)
    assert record["metrics"].keys() == {"acc", "acc_stderr", "acc_norm", "acc_norm_stderr"}
    assert (record["metric"], record["value"]) == ("acc_norm", record["metrics"]["acc_norm"])
    assert record["chance"] == (1 / 3 + 1 / 4) / 2
    inputs = {"model": {"model.safetensors": "f"}, "data": "f", "train": "f"}
    EvaluationRecord(**record, inputs=inputs, seconds=1.0, peak_memory_bytes=1, overlap=0.0)
