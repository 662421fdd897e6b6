"""Define HellaSwag: which of four endings continues the text (Zellers et al. 2019, arXiv:1905.07830).

Prompt and choices are those of lm-eval's task `hellaswag` 1.0 (hellaswag/utils.py), including its oddities.
"""

import re

from sparseft.axes.tasks.metrics import ACC, ACC_NORM
from sparseft.axes.tasks.task import Lengths, Row, Task


def prompt(row: Row) -> str:
    """Return the activity and both parts of the context. As in lm-eval, `capitalize` also lowers the rest of ctx_b."""
    return clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")


def choices(row: Row) -> list[str]:
    """Return the endings without the marks of WikiHow."""
    return [clean(ending) for ending in row["endings"]]


def label(row: Row) -> int:
    """Return the index of the right ending, which the hub's rows hold as a string."""
    return int(row["label"])


def clean(text: str) -> str:
    """Return a text without the [marks] of WikiHow. As in lm-eval, double spaces are replaced only once."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def problem(row: Row) -> str | None:
    """Return what is wrong with a row, or None."""
    endings = row["endings"]
    if not (row["ctx_a"] + row["ctx_b"]).strip() or not prompt(row).strip():
        return "fields 'ctx_a' and 'ctx_b' hold no text"
    if len(endings) < 2 or not all(isinstance(ending, str) for ending in endings):
        return "field 'endings' is not a list of two or more strings"
    for number, ending in enumerate(endings):
        if not clean(ending):
            return f"ending {number} is empty, and acc_norm divides by its length"
    # As text, because int() would also take " 1" and "1_0".
    if str(row["label"]) not in map(str, range(len(endings))):
        return f"label {row['label']!r} is outside 0 to {len(endings) - 1}"
    return None


HELLASWAG = Task(
    name="hellaswag",
    fields={"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list, "label": (int, str)},
    problem=problem,
    prompt=prompt,
    answer=lambda row: choices(row)[label(row)],
    choices=choices,
    label=label,
    headline=ACC_NORM,
    metrics=(ACC, ACC_NORM),
    lengths=Lengths(rows=(39905, 10042), mean=90, long=160, answer=75, choices=4),
    hub="Rowan/hellaswag@218ec52e09a7e7462a5400043bb9a69a41d06b76",
)
