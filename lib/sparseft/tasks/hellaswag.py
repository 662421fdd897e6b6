"""HellaSwag: which of four endings continues the text (Zellers et al. 2019, arXiv:1905.07830).

Prompt and choices are those of lm-eval's task `hellaswag` 1.0 (hellaswag/utils.py), quirks included.
"""

import re

from sparseft.tasks.task import Row, Task


def prompt(row: Row) -> str:
    """Activity, then the two parts of the context; `capitalize` also lowers the rest of ctx_b, as lm-eval does."""
    return clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")


def choices(row: Row) -> list[str]:
    """The endings without their WikiHow marks."""
    return [clean(ending) for ending in row["endings"]]


def label(row: Row) -> int:
    """Index of the right ending; the hub's rows hold it as a string."""
    return int(row["label"])


def clean(text: str) -> str:
    """Drop WikiHow's [marks]; double spaces are halved once, not until none is left, as lm-eval does."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


HELLASWAG = Task(
    name="hellaswag",
    fields={"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list, "label": (int, str)},
    prompt=prompt,
    answer=lambda row: choices(row)[label(row)],
    choices=choices,
    label=label,
    metric="acc_norm",
    chance=0.25,
    hub="Rowan/hellaswag@218ec52e09a7e7462a5400043bb9a69a41d06b76",
)
