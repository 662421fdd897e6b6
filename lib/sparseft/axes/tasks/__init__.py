"""List the tasks.

A new task is a file beside this one and a name in TASKS. The real tasks have lm-eval's prompts, so that training and
evaluation see the same text. Each mini task has the prompt, the answer and the fields of its real one, and generates
its rows.

A study can also describe tasks of its own in the configuration. Each belongs to one of KINDS, which makes the task from
the definition in the manifest of its data (data/prepared.py).
"""

from sparseft.axes.tasks import instruction, lm_eval, text
from sparseft.axes.tasks.boolq import BOOLQ
from sparseft.axes.tasks.boolq_mini import BOOLQ_MINI
from sparseft.axes.tasks.gsm8k import GSM8K
from sparseft.axes.tasks.gsm8k_mini import GSM8K_MINI
from sparseft.axes.tasks.hellaswag import HELLASWAG
from sparseft.axes.tasks.hellaswag_mini import HELLASWAG_MINI
from sparseft.axes.tasks.metrics import LOSS, Metric, lm_eval_metric

TASKS = (BOOLQ, HELLASWAG, GSM8K, BOOLQ_MINI, HELLASWAG_MINI, GSM8K_MINI)
BY_NAME = {task.name: task for task in TASKS}
# Kind of a task that a study describes -> its module, which has the kind's name, the function `task_of(name,
# definition)`, and typical LENGTHS.
KINDS = {"lm_eval": lm_eval, "instruction": instruction, "text": text}
_METRICS = {metric.name: metric for task in TASKS for metric in task.metrics} | {LOSS.name: LOSS}


def is_toy(name: str) -> bool:
    """Return whether the project generates the rows of the task with this name."""
    return name in BY_NAME and BY_NAME[name].generate is not None


def get_metric(name: str) -> Metric:
    """Return the metric with this name. One that no built-in task reports is lm-eval's, with lm-eval's name."""
    return _METRICS.get(name) or lm_eval_metric(name, f"{name}_stderr")
