"""How long the examples of each task are: what an estimate knows of data that it has not read."""

from dataclasses import dataclass
from pathlib import Path

from sparseft.storage.reading import ROWS_LIMIT, check_regular
from sparseft.study.config import TaskData


@dataclass(frozen=True)
class Texts:
    """A task's rows on the hub (train, validation), bytes a row, and tokens, about four characters each: of a mean example,
    of a long one (the 99th percentile) and of its answer; choices to score, none where the answer is generated. Measured
    on 700 to 2000 rows of each."""

    rows: tuple[int, int]
    bytes: int
    mean: int
    long: int
    answer: int
    choices: int


TEXTS = {
    "boolq": Texts((9427, 3270), 700, 140, 450, 1, 2),
    "hellaswag": Texts((39905, 10042), 1200, 90, 160, 75, 4),
    "gsm8k": Texts((7473, 1319), 560, 130, 310, 190, 0),
    "boolq_mini": Texts((0, 0), 90, 25, 25, 1, 2),
    "hellaswag_mini": Texts((0, 0), 310, 30, 30, 8, 4),
    "gsm8k_mini": Texts((0, 0), 120, 40, 40, 12, 0),
}


def validation_rows(data: TaskData, task: str) -> int:
    """Return how many validation examples a task will have."""
    if data.validation_examples or not data.local:
        return data.validation_examples or TEXTS[task].rows[1]
    path = Path(data.local) / "validation.jsonl"
    check_regular(path, ROWS_LIMIT)
    with open(path, "rb") as file:
        return sum(1 for _ in file)
