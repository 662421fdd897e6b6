"""Count the validation examples of a study before its data is prepared."""

from pathlib import Path

from sparseft.storage.reading import ROWS_LIMIT, check_regular
from sparseft.study.config import TaskData
from sparseft.tasks import get_task


def validation_rows(data: TaskData, task: str) -> int:
    """Return how many validation examples a task will have. Raises InputError if `data.local` has no readable file of rows."""
    if data.validation_examples:
        return data.validation_examples
    if not data.local:
        return get_task(task).lengths.rows[1]
    path = Path(data.local) / "validation.jsonl"
    check_regular(path, ROWS_LIMIT)
    with open(path, "rb") as file:
        return sum(1 for _ in file)
