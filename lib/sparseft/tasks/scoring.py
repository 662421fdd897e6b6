"""Score answers by lm-eval's rules, from the rows of a record.

The evaluation checks lm-eval's metrics with these functions, and the analysis checks every record with them. Therefore they
need neither torch nor lm-eval.

Arguments and results by row:

    labels           the index of the right choice, or the target text of a generated answer
    log_likelihoods  of each choice, in nats
    lengths          of each choice, in characters; rows may have different numbers of choices
    predictions      the index of the chosen answer, or the extracted answer
    outcomes         1.0 if the prediction is right, else 0.0
"""

import hashlib
import json
import math
import random
from collections import Counter
from functools import lru_cache
from itertools import zip_longest

import numpy as np

from sparseft.errors import InputError
from sparseft.tasks.metrics import (
    ACC,
    ACC_NORM,
    EXACT_MATCH,
    EXACT_MATCH_FLEXIBLE,
    F1,
    LOSS,
    MAJORITY_FLOOR,
    TOKEN_PERPLEXITY,
    Metric,
    exact_match,
    flexible_extract,
    recall,
    strict_match,
)
from sparseft.tasks.task import Row, Task

# Resamples for the standard error of f1, which has a relative error of 4 % of its own. The other standard errors have a formula.
BOOTSTRAP = 400
# Nats per token. exp(709.79) is more than the largest float.
LARGEST_LOSS = 709


def labels_of(rows: list[Row], task: Task) -> tuple[list[int] | list[str], list[list[int]] | None]:
    """Return the labels of rows, and the lengths of their choices; None if the answer is generated."""
    if task.choices is None:
        return [task.answer(row) for row in rows], None
    return [task.label(row) for row in rows], [[len(choice) for choice in task.choices(row)] for row in rows]


def prompt_digest(task: Task, rows: list[Row]) -> str:
    """Return the sha256 of the prompts and answers of rows, in their order."""
    texts = [[task.prompt(row), task.answer(row)] for row in rows]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def chance_of(lengths: list[list[int]] | None) -> float:
    """Return the score of a random guess: the mean of 1 / number of choices, or 0 if the answer is generated."""
    if lengths is None:
        return 0.0
    return math.fsum(1 / len(row) for row in lengths) / len(lengths)


def likeliest(log_likelihoods: list[list[float]], lengths: list[list[int]] | None = None) -> np.ndarray:
    """Return the index of the likeliest choice of each row, int64 (rows,); the first one if several are equally likely.

    With `lengths`, log-likelihoods are divided by them (acc_norm)."""
    return _scores(log_likelihoods, lengths).argmax(axis=0)


def ties(log_likelihoods: list[list[float]], lengths: list[list[int]] | None = None) -> int:
    """Return how many rows have several likeliest choices."""
    scores = _scores(log_likelihoods, lengths)
    return int(((scores == scores.max(axis=0)).sum(axis=0) > 1).sum())


def judge_choices(
    labels: list[int], log_likelihoods: list[list[float]], lengths: list[list[int]], metric: str
) -> dict[str, object]:
    """Return `predictions` and `outcomes` of the headline metric by row, and the number of rows with `ties`."""
    divisors = lengths if metric == ACC_NORM.name else None
    predictions = likeliest(log_likelihoods, divisors).tolist()
    outcomes = [float(prediction == label) for prediction, label in zip(predictions, labels, strict=True)]
    return {"ties": ties(log_likelihoods, divisors), "predictions": predictions, "outcomes": outcomes}


def judge_texts(labels: list[str], generations: list[str]) -> dict[str, list]:
    """Return `predictions` and `outcomes` of generated texts by row."""
    predictions = [strict_match(text) for text in generations]
    outcomes = [float(exact_match(*pair)) for pair in zip(predictions, labels, strict=True)]
    return {"predictions": predictions, "outcomes": outcomes}


def choice_metrics(
    labels: list[int], log_likelihoods: list[list[float]], lengths: list[list[int]], classes: tuple[str, ...]
) -> dict[str, float | None]:
    """Return every metric that a task with choices may report, by name, without the standard error of f1.

    `classes` are the choices if all rows have the same ones, else (). The recall of a choice is None if it is never right."""
    right = np.array(labels)
    predictions = likeliest(log_likelihoods)
    hits_norm = likeliest(log_likelihoods, lengths) == right
    metrics = _mean(ACC, predictions == right) | _mean(ACC_NORM, hits_norm)
    if not classes:
        return metrics
    for number, name in enumerate(classes):
        metrics |= _mean(recall(name), predictions[right == number] == number)
    metrics[MAJORITY_FLOOR.name] = max(Counter(labels).values()) / len(labels)
    if (right == 1).any():
        metrics[F1.name] = float(_f1(right, predictions))
    return metrics


def generated_metrics(labels: list[str], generations: list[str]) -> dict[str, float | None]:
    """Return every metric of a task with generated answers, by name."""
    metrics = {}
    for metric, extract in ((EXACT_MATCH, strict_match), (EXACT_MATCH_FLEXIBLE, flexible_extract)):
        pairs = zip(generations, labels, strict=True)
        hits = np.array([exact_match(extract(generation), label) for generation, label in pairs])
        metrics |= _mean(metric, hits)
    return metrics


def f1_standard_error(labels: list[int], log_likelihoods: list[list[float]]) -> float:
    """Return the standard error of f1 from the resamples that lm-eval draws."""
    rows = _resamples(len(labels))
    right = np.array(labels, dtype=np.int8)
    predictions = likeliest(log_likelihoods).astype(np.int8)
    return float(_f1(right[rows], predictions[rows]).std(ddof=1))


def loss_metrics(losses: np.ndarray, answer_tokens: np.ndarray) -> dict[str, float]:
    """Return the metrics of a task that is evaluated by its loss, by name.

    `losses` are sums over the answer of each example, in nats, (examples,). Raises InputError if the perplexity is not a
    finite number."""
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
            f"perplexity: the mean loss is {loss:g} nats per token, and only up to {LARGEST_LOSS} is a perplexity finite",
            "check the model's weights, prune less, or leave the perplexity out",
        )
    return math.exp(loss)


def _scores(log_likelihoods: list[list[float]], lengths: list[list[int]] | None) -> np.ndarray:
    """Return the score of each choice of each row, float64 (choices, rows); -inf if a row has fewer choices."""
    scores = np.array(list(zip_longest(*log_likelihoods, fillvalue=-np.inf)))
    return scores if lengths is None else scores / np.array(list(zip_longest(*lengths, fillvalue=1)))


def _mean(metric: Metric, hits: np.ndarray) -> dict[str, float | None]:
    """Return the share of hits and its standard error by name; None if there are too few rows for it."""
    share = float(hits.mean()) if len(hits) else None
    error = math.sqrt(share * (1 - share) / (len(hits) - 1)) if len(hits) > 1 else None
    return {metric.name: share, metric.standard_error: error}


def _f1(right: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return f1 of choice 1 over the last axis; 0 if it is neither right nor predicted in any row."""
    hits = ((right == 1) & (predictions == 1)).sum(axis=-1)
    right_or_predicted = (right == 1).sum(axis=-1) + (predictions == 1).sum(axis=-1)
    return 2 * hits / np.maximum(right_or_predicted, 1)


# 5 MB for BoolQ's 3270 rows.
@lru_cache(maxsize=4)
def _resamples(rows: int) -> np.ndarray:
    """Return the rows of each resample, int32 (BOOTSTRAP, rows), drawn as in lm_eval/api/metrics.py: one chunk, seed 0."""
    draw = random.Random(0)
    return np.array([draw.choices(range(rows), k=rows) for _ in range(BOOTSTRAP)], dtype=np.int32)
