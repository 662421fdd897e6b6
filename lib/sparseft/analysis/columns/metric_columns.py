"""Describe the columns of summary.csv with the metrics of the tasks (evaluation.json). The tasks say what they report."""

from sparseft.analysis.columns.column import SHARE_SEEN, Column
from sparseft.tasks import METRICS, TASKS
from sparseft.tasks.metrics import ACC, ACC_NORM, EXACT_MATCH, F1, TOKEN_PERPLEXITY, Metric

# A task of lm-eval may report these too.
_OF_LM_EVAL = (ACC, ACC_NORM, F1, EXACT_MATCH)
_NO_PROBE = "the run was evaluated without this probe"
_LACKS_PROBE = "the run lacks a probe that another run of its task has"


def _columns(metric: Metric) -> list[Column]:
    """Return the columns of a metric and its standard error. A mini task reports the metrics of its real task."""
    tasks = [task.name for task in TASKS if metric in task.metrics and not task.generate]
    if metric in _OF_LM_EVAL:
        tasks.append("one of lm-eval that reports it")
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
        TOKEN_PERPLEXITY.name,
        "number",
        source=f"record.evaluation.metrics.{TOKEN_PERPLEXITY.name}",
        unit=TOKEN_PERPLEXITY.unit,
        empty="metric is not loss",
        meaning=f"{TOKEN_PERPLEXITY.meaning} The column exists only if a task has `kind: instruction` or `kind: text`.",
        is_optional=True,
    ),
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
    Column(
        "perplexity_overlap",
        "number",
        source="record.evaluation.perplexity_overlap",
        unit=SHARE_SEEN,
        empty="the run was evaluated without a perplexity",
        meaning="Share of the text of the perplexity that occurs in what validation_overlap compares with. The column exists only"
        " if you set `perplexity:`.",
        is_optional=True,
    ),
    Column(
        "probe_NAME",
        "number",
        source="record.evaluation.probe_values",
        unit="fraction",
        empty=_NO_PROBE,
        meaning="Headline metric of the merged model on the probe NAME. These columns exist only if you set `evaluation.probes`.",
    ),
    Column(
        "probe_NAME_stderr",
        "number",
        source="record.evaluation.probe_errors",
        unit="fraction",
        empty=_NO_PROBE,
        meaning="Standard error of probe_NAME over its examples.",
    ),
    Column(
        "probe_NAME_examples",
        "integer",
        source="record.evaluation.probe_examples",
        unit="validation examples",
        empty=_NO_PROBE,
        meaning="Examples of the probe that were evaluated.",
    ),
    Column(
        "probe_NAME_overlap",
        "number",
        source="record.evaluation.probe_overlaps",
        unit=SHARE_SEEN,
        empty=_NO_PROBE,
        meaning="Share of the probe's examples that occur in what validation_overlap compares with.",
    ),
    Column(
        "probes_mean",
        "number",
        unit="fraction",
        empty=_LACKS_PROBE,
        meaning="Mean of the probes that the study's runs of the task have, each with the same weight. The task itself is not among"
        " them.",
        is_optional=True,
    ),
    Column(
        "probes_mean_stderr",
        "number",
        unit="fraction",
        empty=_LACKS_PROBE,
        meaning="Standard error of probes_mean: the root of the sum of the squared probe_NAME_stderr, divided by the number of"
        " probes. It takes the examples of two probes as independent.",
        is_optional=True,
    ),
)
