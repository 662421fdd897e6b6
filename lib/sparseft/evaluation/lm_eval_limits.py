"""Limit the time and the memory that the filters and metrics of a task need, because a user's file may have any."""

from contextlib import AbstractContextManager

from lm_eval.api.task import ConfigurableTask

from sparseft.language_model.limits import limited

_FILTER_SECONDS_PER_ROW = 0.1


def limited_filters(name: str, rows: int) -> AbstractContextManager[None]:
    """Return a limit of what the filters of the task `name` need for the answers of `rows` rows."""
    return limited(f"tasks.{name}: filter_list", _FILTER_SECONDS_PER_ROW * rows)


def limit_scores(lm_task: ConfigurableTask, name: str, rows: int) -> None:
    """Limit what the filters of a task need for its `rows` rows, and what its metrics need for each of them."""
    apply_filters = lm_task.apply_filters
    process_results = lm_task.process_results

    def limited_apply_filters() -> None:
        with limited_filters(name, rows):
            apply_filters()

    def limited_process_results(doc: dict, results: list) -> dict:
        with limited(f"tasks.{name}: metric_list"):
            return process_results(doc, results)

    lm_task.apply_filters = limited_apply_filters
    lm_task.process_results = limited_process_results
