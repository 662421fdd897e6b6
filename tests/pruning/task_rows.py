"""The rows of a task, and how many of them the masks of these tests look at."""

from sparseft.tasks import BY_NAME

TASK = BY_NAME["boolq_mini"]
ROWS = TASK.generate("train", 8, 0)
NUMBER = 3
