"""Make a task from a definition of lm-eval, as data/lm_eval_examples.py writes it into a manifest.

lm-eval renders the texts of a row once, when it is prepared, so that training needs no lm-eval:

    doc       the row in its original fields, after the task's process_docs
    prompt    the text without few-shot examples, for a task with one context per choice that of the right one
    answer    what training learns after it, with the delimiter in front
    requests  [context, continuation] of each choice, without few-shot examples
    choices   the choices, whose characters acc_norm divides by
    label     index of the right choice

The last three are only in a task with choices. The evaluation renders the rows again, and compares
(data/lm_eval_rendering.py).
"""

from operator import itemgetter

from sparseft.axes.tasks.metrics import ACC, ACC_NORM, F1, lm_eval_metric
from sparseft.axes.tasks.task import Lengths, Row, Task

# Raise it when the prompts, answers or rows of such a task change.
version = 1
MULTIPLE_CHOICE = "multiple_choice"
GENERATE_UNTIL = "generate_until"
# Values of `scored_by` in a definition: how the rows of an evaluation are scored.
BY_LOG_LIKELIHOODS = "log-likelihoods"
BY_LM_EVAL = "lm-eval"
# What lm-eval calls the results of a task without filters.
NO_FILTER = "none"
# The metrics whose values follow from the log-likelihoods of the choices (evaluation/scoring.py), by name.
FROM_LOG_LIKELIHOODS = {metric.name: metric for metric in (ACC, ACC_NORM, F1)}
# Guesses for the estimates, until the data are prepared.
LENGTHS = Lengths(rows=(1000, 1000), mean=100, long=300, answer=5, choices=4)
_CHOICE_FIELDS: dict[str, type] = {"requests": list, "choices": list, "label": int}


def task_of(name: str, definition: dict) -> Task:
    """Return the task that a definition describes."""
    if definition["scored_by"] == BY_LOG_LIKELIHOODS:
        metrics = tuple(FROM_LOG_LIKELIHOODS[entry["name"]] for entry in definition["metrics"])
    else:
        metrics = tuple(lm_eval_metric(entry["name"], entry["standard_error"]) for entry in definition["metrics"])
    has_choices = definition["output_type"] == MULTIPLE_CHOICE
    return Task(
        name=name,
        fields={"doc": dict, "prompt": str, "answer": str, **(_CHOICE_FIELDS if has_choices else {})},
        filled=("prompt", "answer"),
        problem=_choice_problem if has_choices else lambda row: None,
        prompt=itemgetter("prompt"),
        answer=itemgetter("answer"),
        delimiter="",
        # lm-eval keeps the spaces at the end of a prompt if the answer is generated.
        moves_spaces=has_choices,
        choices=itemgetter("choices") if has_choices else None,
        label=itemgetter("label") if has_choices else None,
        classes=tuple(definition["classes"]),
        headline=next(metric for metric in metrics if metric.name == definition["metric"]),
        metrics=metrics,
        max_new_tokens=definition["max_new_tokens"],
        few_shot=definition["num_fewshot"],
        is_trainable=definition["trainable"],
        definition=definition,
    )


def _choice_problem(row: Row) -> str | None:
    """Return what is wrong with a row that has choices, or None."""
    choices = row["choices"]
    if len(choices) < 2 or len(row["requests"]) != len(choices):
        return "it has fewer than two choices"
    # lm-eval divides by the length of a choice.
    return None if all(choices) else f"choice {choices.index('') + 1} is empty"
