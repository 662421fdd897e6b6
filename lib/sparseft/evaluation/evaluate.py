"""Evaluate a model on a task with lm-eval, and keep the results of every row, from which all metrics follow.

Before lm-eval's metrics are returned, tasks/scoring.py computes them again from the rows. If they differ, for example with a
new version of lm-eval, the evaluation ends with an error.
"""

import hashlib
import json
import math
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from sparseft.errors import InputError
from sparseft.evaluation.harness import StrictLM, run_harness
from sparseft.language_model.batches import Example, encode, refuse_rows
from sparseft.language_model.hardware import device_name
from sparseft.language_model.loss import AnswerLoss, answer_losses
from sparseft.tasks import scoring
from sparseft.tasks.data_source import overlap
from sparseft.tasks.metrics import F1
from sparseft.tasks.task import Row, Task

if TYPE_CHECKING:
    # At run time, this import would come before harness.py sets the environment variables of transformers.
    from transformers import PreTrainedTokenizerBase


def evaluate(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", task: Task, rows: dict[str, list[Row]], batch_size: int
) -> dict:
    """Score a model on rows["validation"], and return the content of evaluation.json.

    The metrics put `few_shot` worked examples, taken from rows["train"], before every question. The loss uses none, so
    `loss_few_shot` is 0. eval_loss is in nats per answer token. These fields have one value per row:

        labels           index of the right choice, or the target text of a generated answer
        choice_lengths   characters of each choice, which acc_norm divides by
        log_likelihoods  of each choice, in nats
        generations      the whole generated text
        predictions      index of the choice by the headline metric, or the extracted answer
        outcomes         1 if the headline metric counts the row as right, else 0
        losses           of the right answer, in nats, summed over its tokens
        answer_tokens    number of tokens of the right answer

    `ties` counts the rows in which several choices are the likeliest. lm-eval takes the first of them.
    Raises InputError if the rows cannot be scored, or if lm-eval's numbers do not follow from the rows."""
    task.check(rows)
    if batch_size < 1:
        raise InputError(f"an evaluation in batches of {batch_size}", "give a batch size of 1 or more")
    validation = rows["validation"]
    lm = StrictLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device))
    metrics, by_row = _score(lm, task, rows)
    examples = encode(validation, task, tokenizer, model.config.max_position_embeddings)
    if lm.shares_contexts:
        losses, tokens = _losses_of_choices(by_row, examples)
    else:
        losses, tokens = answer_losses(AnswerLoss(model), examples, batch_size, model.device)
    return {
        "task": task.name,
        **({"definition_sha256": task.definition_sha256} if task.definition else {}),
        "metric": task.metric,
        "value": metrics[task.headline.name],
        "standard_error": metrics[task.headline.standard_error],
        "examples": len(validation),
        "distinct_prompts": len({task.prompt(row) for row in validation}),
        "chance": scoring.chance_of(by_row.get("choice_lengths")),
        "few_shot": task.few_shot,
        "eval_loss": float(losses.sum() / tokens.sum()),
        "loss_few_shot": 0,
        "metrics": metrics,
        "harness": f"lm-eval {version('lm-eval')}",
        "prompt_sha256": prompt_digest(task, validation),
        "train_overlap": overlap(task, rows),
        "device": device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        **by_row,
        "losses": losses.tolist(),
        "answer_tokens": tokens.tolist(),
    }


def prompt_digest(task: Task, rows: list[Row]) -> str:
    """Return the sha256 of the prompts and answers of rows, in their order."""
    texts = [[task.prompt(row), task.answer(row)] for row in rows]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def check_metrics(task: str, harness_values: dict[str, object], recomputed: dict[str, object]) -> None:
    """Raise InputError if a value of lm-eval differs from the one that is recomputed from the rows."""
    for name, value in harness_values.items():
        if name not in recomputed or not np.allclose(value, recomputed[name], rtol=0, atol=1e-9):
            raise InputError(
                f"{task}: {name} by lm-eval {version('lm-eval')} does not follow from its rows",
                "install the lm-eval that pyproject.toml names, and report this line",
            )


def _score(lm: StrictLM, task: Task, rows: dict[str, list[Row]]) -> tuple[dict[str, float | None], dict[str, object]]:
    """Return the task's metrics and standard errors by name, and the fields of evaluation.json that have a value per row."""
    metrics, samples = run_harness(lm, task, rows)
    fields_of = _choice_fields if task.choices else _text_fields
    by_row = fields_of(samples, task, rows["validation"])
    recomputed = _recomputed(task, by_row)
    outcomes = [float(sample[task.metric]) for sample in samples]
    check_metrics(task.name, metrics | {"outcomes": outcomes}, recomputed | {"outcomes": by_row["outcomes"]})
    # The task also reports metrics that lm-eval does not have.
    reported = {column for metric in task.metrics for column in metric.columns}
    only_ours = {name: value for name, value in recomputed.items() if name in reported and name not in metrics}
    return metrics | only_ours, by_row


def _choice_fields(samples: list[dict], task: Task, rows: list[Row]) -> dict[str, object]:
    """Return the fields by row of a task with choices. Raises InputError if a log-likelihood is not finite."""
    labels, lengths = scoring.labels_of(rows, task)
    logs = [[float(log) for log, _ in sample["filtered_resps"]] for sample in samples]
    refuse_rows(
        f"{task.name}: log-likelihoods are not finite",
        [not all(map(math.isfinite, row)) for row in logs],
        "lower training.learning_rate, or check the model's weights",
    )
    judged = scoring.judge_choices(labels, logs, lengths, task.metric)
    return {"labels": labels, "choice_lengths": lengths, "log_likelihoods": logs, **judged}


def _text_fields(samples: list[dict], task: Task, rows: list[Row]) -> dict[str, object]:
    """Return the fields by row of a task with generated answers."""
    labels, _ = scoring.labels_of(rows, task)
    generations = [sample["resps"][0][0] for sample in samples]
    return {"labels": labels, "generations": generations, **scoring.judge_texts(labels, generations)}


def _recomputed(task: Task, by_row: dict) -> dict[str, float | None]:
    """Return the metrics that follow from the rows, computed without lm-eval."""
    if task.choices is None:
        return scoring.generated_metrics(by_row["labels"], by_row["generations"])
    labels, logs = by_row["labels"], by_row["log_likelihoods"]
    metrics = scoring.choice_metrics(labels, logs, by_row["choice_lengths"], task.classes)
    if F1.name in metrics:
        metrics[F1.standard_error] = scoring.f1_standard_error(labels, logs)
    return metrics


def _losses_of_choices(by_row: dict, examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each row's right answer in nats, float64 (N,), and the answer's number of tokens, int64 (N,).

    Use the log-likelihoods that lm-eval computed. The right answer is one of the choices, and training reads the same tokens.
    So its loss is minus its log-likelihood."""
    pairs = zip(by_row["log_likelihoods"], by_row["labels"], strict=True)
    losses = np.array([-logs[label] for logs, label in pairs])
    return losses, np.array([len(example.ids) - example.answer_start for example in examples])
