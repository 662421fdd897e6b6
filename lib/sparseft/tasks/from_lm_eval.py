"""Make a task from a definition of lm-eval."""

from sparseft.tasks.task import Task


def task_of(name: str, definition: dict) -> Task:
    """Return the task that a manifest defines."""
    raise NotImplementedError
