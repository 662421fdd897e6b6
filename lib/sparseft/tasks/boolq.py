"""BoolQ: a yes/no question about a passage (Clark et al. 2019, arXiv:1905.10044).

Prompt and choices are those of lm-eval's task `boolq` 2.0 (super_glue/boolq/default.yaml).
"""

from sparseft.tasks.task import Row, Task

CHOICES = ("no", "yes")


def prompt(row: Row) -> str:
    """The passage, then the question; the rows' questions come without their question mark."""
    return f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"


def label(row: Row) -> int:
    """Index into CHOICES."""
    return int(row["answer"])


def problem(row: Row) -> str | None:
    """Return what is wrong with a row, or None."""
    return next((f"field {field!r} is empty" for field in ("passage", "question") if not row[field].strip()), None)


BOOLQ = Task(
    name="boolq",
    fields={"passage": str, "question": str, "answer": bool},
    prompt=prompt,
    answer=lambda row: CHOICES[label(row)],
    choices=lambda row: list(CHOICES),
    label=label,
    metric="acc",
    hub="aps/super_glue/boolq@3de24cf8022e94f4ee4b9d55a6f539891524d646",
    classes=CHOICES,
    problem=problem,
)
