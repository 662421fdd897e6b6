"""How answers are scored: lm-eval's rules, recomputed from the rows of a record.

evaluation.py checks lm-eval's metrics with these functions, and the analysis checks every record with them. So nothing
here needs torch or lm-eval.
"""

import hashlib
import json
import math
import random
from collections import Counter
from functools import lru_cache
from itertools import zip_longest

import numpy as np

from sparseft.tasks.extraction import exact_match, flexible_extract, strict_match
from sparseft.tasks.task import Row, Task

BOOTSTRAP = 400  # resamples for the standard error of f1, which is thereby known to 4 %; the others have a formula


def labels_of(rows: list[Row], task: Task) -> tuple[list[int] | list[str], list[list[int]] | None]:
    """Return the right answer of each row, and the length of each of its choices in characters.

    The right answer is the index of a choice, or the target text where the answer is generated (then: no lengths)."""
    if task.choices is None:
        return [task.answer(row) for row in rows], None
    return [task.label(row) for row in rows], [[len(choice) for choice in task.choices(row)] for row in rows]


def labels_digest(labels: list, choice_lengths: list[list[int]] | None) -> str:
    """Return one sha256 for what `labels_of` returns."""
    return hashlib.sha256(json.dumps([labels, choice_lengths]).encode()).hexdigest()


def chance_of(choice_lengths: list[list[int]] | None) -> float:
    """Return what a blind guess scores: the mean of 1 / number of choices, or 0 where the answer is generated."""
    if choice_lengths is None:
        return 0.0
    return math.fsum(1 / len(lengths) for lengths in choice_lengths) / len(choice_lengths)


def likeliest(log_likelihoods: list[list[float]], lengths: list[list[int]] | None = None) -> np.ndarray:
    """Return the index of the likeliest choice of each row, int64 (rows,); of equally likely ones the first.

    `lengths`: characters of the choices, for the likelihood per character (acc_norm)."""
    return _scores(log_likelihoods, lengths).argmax(axis=0)


def ties(log_likelihoods: list[list[float]], lengths: list[list[int]] | None = None) -> int:
    """Return how many rows have several likeliest choices."""
    scores = _scores(log_likelihoods, lengths)
    return int(((scores == scores.max(axis=0)).sum(axis=0) > 1).sum())


def _scores(log_likelihoods: list[list[float]], lengths: list[list[int]] | None) -> np.ndarray:
    """Return the score of each choice of each row, float64 (choices, rows), -inf where a row has fewer choices."""
    scores = np.array(list(zip_longest(*log_likelihoods, fillvalue=-np.inf)))
    return scores if lengths is None else scores / np.array(list(zip_longest(*lengths, fillvalue=1)))


def judge_choices(
    labels: list[int], log_likelihoods: list[list[float]], lengths: list[list[int]], metric: str
) -> dict[str, object]:
    """Return `ties`, and by row the `predictions` and `outcomes` of the headline metric; acc_norm divides by the lengths."""
    divisors = lengths if metric == "acc_norm" else None
    predictions = likeliest(log_likelihoods, divisors).tolist()
    outcomes = [float(said == label) for said, label in zip(predictions, labels, strict=True)]
    return {"ties": ties(log_likelihoods, divisors), "predictions": predictions, "outcomes": outcomes}


def judge_texts(labels: list[str], generations: list[str]) -> dict[str, list]:
    """Return by row the `predictions`, which are the extracted answers, and the `outcomes`."""
    predictions = [strict_match(text) for text in generations]
    outcomes = [float(exact_match(*pair)) for pair in zip(predictions, labels, strict=True)]
    return {"predictions": predictions, "outcomes": outcomes}


def choice_metrics(
    labels: list[int], log_likelihoods: list[list[float]], lengths: list[list[int]], classes: tuple[str, ...]
) -> dict[str, float | None]:
    """Return every metric that a task with choices may have, by name, but for the standard error of f1.

    `classes` name the choices where all rows have the same ones. A recall is None without a row of its class."""
    right, said = np.array(labels), likeliest(log_likelihoods)
    metrics = _mean("acc", said == right) | _mean("acc_norm", likeliest(log_likelihoods, lengths) == right)
    if not classes:
        return metrics
    for number, name in enumerate(classes):
        metrics |= _mean(f"recall_{name}", said[right == number] == number)
    metrics["majority_floor"] = max(Counter(labels).values()) / len(labels)
    if (right == 1).any():
        metrics["f1"] = float(_f1(right, said))
    return metrics


def generated_metrics(labels: list[str], generations: list[str]) -> dict[str, float | None]:
    """Return every metric of a task with generated answers, by name."""
    metrics = {}
    for suffix, extract in (("", strict_match), ("_flexible-extract", flexible_extract)):
        pairs = zip(generations, labels, strict=True)
        hits = np.array([exact_match(extract(generation), label) for generation, label in pairs])
        found = _mean("exact_match", hits)
        metrics |= {f"{name}{suffix}": value for name, value in found.items()}
    return metrics


def _mean(name: str, hits: np.ndarray) -> dict[str, float | None]:
    """Return the share of hits with its standard error; None where there are too few rows for it."""
    share = float(hits.mean()) if len(hits) else None
    error = math.sqrt(share * (1 - share) / (len(hits) - 1)) if len(hits) > 1 else None
    return {name: share, f"{name}_stderr": error}


def _f1(right: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Return f1 of class 1 over the last axis; 0 where neither side has it."""
    hits = ((right == 1) & (said == 1)).sum(axis=-1)
    either = (right == 1).sum(axis=-1) + (said == 1).sum(axis=-1)
    return 2 * hits / np.maximum(either, 1)


def f1_standard_error(labels: list[int], log_likelihoods: list[list[float]]) -> float:
    """Return the standard error of f1 from the resamples that lm-eval draws."""
    rows = _resamples(len(labels))
    right, said = np.array(labels, dtype=np.int8), likeliest(log_likelihoods).astype(np.int8)
    return float(_f1(right[rows], said[rows]).std(ddof=1))


@lru_cache(maxsize=4)  # 5 MB for BoolQ's 3270 rows
def _resamples(rows: int) -> np.ndarray:
    """Return the rows of each resample, int32 (BOOTSTRAP, rows), drawn as in lm_eval/api/metrics.py: one chunk, seed 0."""
    draw = random.Random(0)
    return np.array([draw.choices(range(rows), k=rows) for _ in range(BOOTSTRAP)], dtype=np.int32)
