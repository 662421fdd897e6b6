"""Define BoolQ: a yes/no question about a passage (Clark et al. 2019, arXiv:1905.10044).

Prompt and choices are those of lm-eval's task `boolq` 2.0 (super_glue/boolq/default.yaml).
"""

from sparseft.axes.tasks.metrics import ACC, F1, MAJORITY_FLOOR, recall
from sparseft.axes.tasks.task import Lengths, Row, Task

CHOICES = ("no", "yes")


def prompt(row: Row) -> str:
    """Return the passage and the question. The rows have their questions without a question mark."""
    return f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"


def label(row: Row) -> int:
    """Return the index of the right choice in CHOICES."""
    return int(row["answer"])


def converted(row: Row) -> Row:
    """Return a row with super_glue's `label`, 0 or 1, as `answer`, the field of the original files.

    Another label stays as it is, so that the row is refused for its missing answer."""
    if "answer" not in row and row.get("label") in (0, 1):
        return {**row, "answer": bool(row["label"])}
    return row


BOOLQ = Task(
    name="boolq",
    fields={"passage": str, "question": str, "answer": bool},
    filled=("passage", "question"),
    converted=converted,
    prompt=prompt,
    answer=lambda row: CHOICES[label(row)],
    choices=lambda row: list(CHOICES),
    label=label,
    classes=CHOICES,
    headline=ACC,
    metrics=(ACC, F1, *map(recall, CHOICES), MAJORITY_FLOOR),
    lengths=Lengths(rows=(9427, 3270), mean=140, long=450, answer=1, choices=2),
    hub="aps/super_glue/boolq@3de24cf8022e94f4ee4b9d55a6f539891524d646",
)
