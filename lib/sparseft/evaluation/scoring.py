"""Compute from the rows of an evaluation what lm-eval does not: choices, ties, recalls and the metrics of the loss.

These functions need neither torch nor lm-eval.

Arguments and results by row:

    labels           the index of the right choice, or the target text of a generated answer
    log_likelihoods  of each choice, in nats
    lengths          of each choice, in characters; rows may have different numbers of choices
"""

import json
import math
from collections import Counter
from itertools import zip_longest

import numpy as np

from sparseft.axes.tasks.metrics import LOSS, MAJORITY_FLOOR, TOKEN_PERPLEXITY, recall
from sparseft.axes.tasks.task import Row, Task
from sparseft.common.errors import InputError
from sparseft.storage.hashes import sha256_of_text

# Resamples for the standard error of f1, which has a relative error of 4 % of its own. The other standard errors have a
# formula.
BOOTSTRAP = 400
# Nats per token. exp(709.79) is more than the largest float.
LARGEST_LOSS = 709


def prompt_digest(task: Task, rows: list[Row]) -> str:
    """Return the sha256 of the prompts and answers of rows, in their order."""
    return sha256_of_text(json.dumps([[task.prompt(row), task.answer(row)] for row in rows]))


def likeliest(log_likelihoods: list[list[float]], lengths: list[list[int]] | None = None) -> tuple[np.ndarray, int]:
    """Return the index of the likeliest choice of each row, int64 (rows,), and how many rows have several.

    Of these the first one is taken. With `lengths`, log-likelihoods are divided by them (acc_norm)."""
    # float64 (choices, rows); -inf if a row has fewer choices.
    scores = np.array(list(zip_longest(*log_likelihoods, fillvalue=-np.inf)))
    if lengths is not None:
        scores /= np.array(list(zip_longest(*lengths, fillvalue=1)))
    has_ties = (scores == scores.max(axis=0)).sum(axis=0) > 1
    return scores.argmax(axis=0), int(has_ties.sum())


def class_metrics(labels: list[int], predictions: np.ndarray, classes: tuple[str, ...]) -> dict[str, float | None]:
    """Return the recall of each choice with its standard error, and the share of the most frequent one, by name.

    `classes` are the choices if all rows have the same ones, else (). The recall of a choice is None if it is never
    right. Its standard error is None if it is right in fewer than two rows."""
    right = np.array(labels)
    metrics: dict[str, float | None] = {}
    for number, name in enumerate(classes):
        metric, hits = recall(name), predictions[right == number] == number
        share = float(hits.mean()) if len(hits) else None
        error = math.sqrt(share * (1 - share) / (len(hits) - 1)) if share is not None and len(hits) > 1 else None
        metrics |= {metric.name: share, metric.standard_error: error}
    return metrics | {MAJORITY_FLOOR.name: max(Counter(labels).values()) / len(labels)}


def loss_metrics(losses: np.ndarray, answer_tokens: np.ndarray) -> dict[str, float | None]:
    """Return the metrics of a task that is evaluated by its loss, by name.

    `losses` are sums over the answer of each example, in nats, (examples,). Raises InputError if the perplexity is not
    a finite number."""
    loss = float(losses.sum() / answer_tokens.sum())
    return {
        LOSS.name: loss,
        LOSS.standard_error: ratio_error(losses, answer_tokens),
        TOKEN_PERPLEXITY.name: perplexity_of(loss),
    }


def ratio_error(sums: np.ndarray, tokens: np.ndarray) -> float:
    """Return the standard error of sums.sum() / tokens.sum() over the examples, (examples,) each.

    The formula is the linearised one for a ratio (Cochran, Sampling Techniques, 1977, section 6.5)."""
    examples = len(sums)
    residuals = sums - sums.sum() / tokens.sum() * tokens
    return float(np.sqrt(examples / (examples - 1) * np.square(residuals).sum()) / tokens.sum())


def perplexity_of(loss: float) -> float:
    """Return the perplexity of a mean loss in nats per token. Raises InputError if it is not a finite number."""
    # Not `loss > LARGEST_LOSS`, which is False for NaN.
    if not loss <= LARGEST_LOSS:
        raise InputError(
            f"perplexity: the mean loss is {loss:g} nats per token, and only up to {LARGEST_LOSS} is a"
            " perplexity finite",
            "check the model's weights, prune less, or leave the perplexity out",
        )
    return math.exp(loss)
