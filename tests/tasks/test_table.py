"""The table of the tasks. tests/docs/test_extending.py has what a new task needs."""

from sparseft.tasks import BY_NAME, TASKS


def test_every_task_is_complete():
    assert list(BY_NAME) == [task.name for task in TASKS]
    for task in TASKS:
        assert task.headline in task.metrics and task.headline.standard_error
        assert (task.hub is None) == (task.generate is not None) == (task.lengths.rows == (0, 0))
        assert (
            (task.choices is None) == (task.label is None) == (task.max_new_tokens > 0) == (task.lengths.choices == 0)
        )
