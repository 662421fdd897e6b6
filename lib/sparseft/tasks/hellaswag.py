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


def problem(row: Row) -> str | None:
    """Return what is wrong with a row, or None."""
    endings, right = row["endings"], row["label"]
    if not (row["ctx_a"] + row["ctx_b"]).strip() or not prompt(row).strip():
        return "fields 'ctx_a' and 'ctx_b' hold no text"
    if len(endings) < 2 or not all(isinstance(ending, str) for ending in endings):
        return "field 'endings' is not a list of two or more strings"
    if not all(map(clean, endings)):
        return f"ending {[bool(clean(ending)) for ending in endings].index(False)} is empty, acc_norm divides by its length"
    # The hub writes the label as a string. Compared as text, because int() would also take " 1" and "1_0".
    if str(right) not in map(str, range(len(endings))):
        return f"label {right!r} is outside 0 to {len(endings) - 1}"
    return None


HELLASWAG = Task(
    name="hellaswag",
    fields={"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list, "label": (int, str)},
    prompt=prompt,
    answer=lambda row: choices(row)[label(row)],
    choices=choices,
    label=label,
    metric="acc_norm",
    hub="Rowan/hellaswag@218ec52e09a7e7462a5400043bb9a69a41d06b76",
    problem=problem,
)
