"""Describe the columns of summary.csv with the metrics of the tasks (evaluation.json). The tasks say what they report."""

from sparseft.analysis.columns.column import Column
from sparseft.tasks import METRICS, TASKS
from sparseft.tasks.metrics import Metric


def _columns(metric: Metric) -> list[Column]:
    """Return the columns of a metric and its standard error. A mini task reports the metrics of its real task."""
    tasks = [task.name for task in TASKS if metric in task.metrics and not task.generate]
    empty = f"the task is not {' or '.join(tasks)}"
    if metric.empty:
        empty += f"; {metric.empty}"
    columns = [_column(metric.name, metric.meaning, empty)]
    if metric.standard_error:
        empty = f"{metric.name} is empty"
        if metric.answer:
            empty += f"; only one example has the answer {metric.answer}"
        columns.append(_column(metric.standard_error, f"Standard error of {metric.name}.", empty))
    return columns


def _column(name: str, meaning: str, empty: str) -> Column:
    """Return the column of one value in evaluation.json."""
    source = f"record.evaluation.metrics.{name}"
    return Column(name, "number", source=source, unit="fraction", empty=empty, meaning=meaning)


METRIC_COLUMNS = (
    *(column for metric in METRICS for column in _columns(metric)),
    Column(
        "wikitext2_ppl_N",
        "number",
        source="record.evaluation.metrics",
        unit="perplexity per token, 1 or more",
        empty="the run was evaluated without it",
        meaning="Perplexity on WikiText-2 with windows of N tokens. The column exists only if you set `perplexity:`.",
    ),
    Column(
        "local_text_ppl_N",
        "number",
        source="record.evaluation.metrics",
        unit="perplexity per token, 1 or more",
        empty="the run was evaluated without it",
        meaning="The same on a text of your own.",
    ),
)
