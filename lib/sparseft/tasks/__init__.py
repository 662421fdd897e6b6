"""List the tasks, and every metric that one of them reports.

A new task is a file beside this one and a name in TASKS. The real tasks have lm-eval's prompts, so that training and
evaluation see the same text. Each mini task has the prompt, the answer and the fields of its real one, and generates its rows.

A study can also describe tasks of its own in the configuration. Each belongs to one of KINDS, which makes the task from the
definition in the manifest of its data (prepared.py).
"""

from sparseft.tasks import from_lm_eval, instruction, text
from sparseft.tasks.boolq import BOOLQ
from sparseft.tasks.boolq_mini import BOOLQ_MINI
from sparseft.tasks.gsm8k import GSM8K
from sparseft.tasks.gsm8k_mini import GSM8K_MINI
from sparseft.tasks.hellaswag import HELLASWAG
from sparseft.tasks.hellaswag_mini import HELLASWAG_MINI
from sparseft.tasks.metrics import LOSS, Metric, lm_eval_metric

TASKS = (BOOLQ, HELLASWAG, GSM8K, BOOLQ_MINI, HELLASWAG_MINI, GSM8K_MINI)
BY_NAME = {task.name: task for task in TASKS}


# Kind of a task that a study describes -> its module, which has `task_of(name, definition)`.
KINDS = {"lm_eval": from_lm_eval, "instruction": instruction, "text": text}


def file_of_kind(kind: str) -> str:
    """Return the name, without .py, of the file of a kind."""
    return KINDS[kind].__name__.rpartition(".")[2]


def _metrics() -> tuple[Metric, ...]:
    """Return every metric once. One that an earlier task lacks stands behind the metric that its own task lists before it."""
    metrics: list[Metric] = []
    for task in TASKS:
        place = len(metrics)
        for metric in task.metrics:
            if metric in metrics:
                place = metrics.index(metric) + 1
            else:
                metrics.insert(place, metric)
                place += 1
    return tuple(metrics)


# In the order of their columns in summary.csv.
METRICS = _metrics()
# The column of the recall of each answer that has one.
RECALLS = {metric.answer: metric.name for metric in METRICS if metric.answer}


def get_metric(name: str) -> Metric:
    """Return the metric with this name. One that no built-in task reports is lm-eval's, with lm-eval's name."""
    named = {metric.name: metric for metric in (*METRICS, LOSS)}
    return named.get(name) or lm_eval_metric(name, f"{name}_stderr")
