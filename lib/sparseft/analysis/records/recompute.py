"""Compute every number of an evaluation again that follows from its rows, and compare.

What a record says of a model must follow from the log-likelihoods (or the generated texts) and the right answers that it
holds for each example. right_answers.py checks that those right answers are the ones of the data. A loss must follow from the
losses by example.

A task of lm-eval may have filters and functions that only lm-eval has. Then the record says that lm-eval scored the examples
(`scored_by`), and its outcomes are not computed again. Their mean and its standard error always are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sparseft.analysis.headlines import is_loss
from sparseft.analysis.records.record_file import ROUNDING
from sparseft.tasks import TASKS
from sparseft.tasks.metrics import F1, LOSS, TOKEN_PERPLEXITY
from sparseft.tasks.scoring import (
    chance_of,
    choice_metrics,
    f1_standard_error,
    generated_metrics,
    judge_choices,
    judge_texts,
    ratio_error,
)
from sparseft.tasks.wikitext2 import PREFIXES

# A loss and the log-likelihood of the same answer come from two forward passes in batches of different sizes. lm-eval also
# rounds and sums the log-probabilities in the model's dtype, and this project in fp32. In bfloat16 they differed by at most
# 0.23 nats on BoolQ's single tokens, and by at most 0.06 nats per token on HellaSwag, 2.1 of 228 (SmolLM2-135M dense, 50 and
# 80 % pruned, 128 rows, batches of 4, 16 and 32). The bound is more than three times that everywhere.
# A fraction of the loss.
LOSS_SHARE = 0.05
# Nats per answer token.
LOSS_PER_TOKEN = 0.5
# Relative. lm-eval computes the metrics in another order, and the standard error of f1 from resamples.
METRIC_ROUNDING = 1e-6


class Answered(Protocol):
    """Name the fields of answers that are recomputed; see evaluation.evaluate."""

    metric: str
    value: float
    standard_error: float
    metrics: dict[str, float | None]
    chance: float | None
    definition_sha256: str | None
    scored_by: str | None
    labels: list[int] | list[str] | None
    choice_lengths: list[list[int]] | None
    log_likelihoods: list[list[float]] | None
    generations: list[str] | None
    predictions: list[int] | list[str] | None
    ties: int | None
    outcomes: np.ndarray | None


class Scored(Answered, Protocol):
    """Name the fields of an evaluation that are recomputed, which also has losses."""

    eval_loss: float
    few_shot: int
    loss_few_shot: int
    losses: np.ndarray
    answer_tokens: np.ndarray


@dataclass(frozen=True)
class RowScores:
    """Hold the scores that follow from the rows. `ties` is None for generated answers."""

    predictions: list[int] | list[str]
    outcomes: list[float]
    metrics: dict[str, float | None]
    ties: int | None = None


def contradictions(scored: Scored) -> Iterator[str]:
    """Yield what does not follow from the rows. Each list of rows must have as many entries as there are examples."""
    if is_loss(scored.metric):
        yield from _loss_headline_contradictions(scored)
        return
    yield from answer_contradictions(scored)
    yield from _eval_loss_contradictions(scored)
    if not _unusable(scored):
        yield from _loss_contradictions(scored)


def answer_contradictions(answered: Answered) -> Iterator[str]:
    """Yield what does not follow from the answers. Each list of rows must have as many entries as there are examples."""
    if fault := _unusable(answered):
        yield fault
        return
    expected: dict[str, float | None] = {}
    if answered.scored_by is None:
        scores = _scores(answered)
        yield from _row_contradictions(answered, scores)
        expected = scores.metrics
    chance = chance_of(answered.choice_lengths)
    if answered.chance is None or not math.isclose(answered.chance, chance, rel_tol=ROUNDING):
        yield f"chance is {answered.chance}, by the rows {chance:g}"
    yield from _mean_contradictions(answered)
    yield from _headline_contradictions(answered)
    yield from _metric_contradictions(answered, expected)


def _mean_contradictions(answered: Answered) -> Iterator[str]:
    """Yield whether value and standard_error differ from the mean of the outcomes and its standard error."""
    examples = len(answered.outcomes)
    if answered.value > 1:
        yield f"value {answered.value:g} is above 1"
    if not math.isclose(answered.outcomes.sum(), answered.value * examples, rel_tol=ROUNDING):
        yield f"value {answered.value:g} is not the mean of the outcomes"
    error = float(answered.outcomes.std(ddof=1)) / math.sqrt(examples)
    if not math.isclose(answered.standard_error, error, rel_tol=METRIC_ROUNDING, abs_tol=ROUNDING):
        yield f"standard_error {answered.standard_error:g} is not that of the outcomes, {error:g}"


def _headline_contradictions(answered: Answered) -> Iterator[str]:
    """Yield whether value and standard_error differ from those among the metrics."""
    headline = (answered.metrics.get(answered.metric), _error_among_metrics(answered))
    if headline != (answered.value, answered.standard_error):
        yield f"value and standard_error are not those of metrics.{answered.metric}"


def _error_among_metrics(answered: Answered) -> float | None:
    """Return the standard error of the headline. Its name has `_stderr` at the end, or before the name of a filter."""
    metric = answered.metric
    ends = [len(metric), *(place for place, letter in enumerate(metric) if letter == "_")]
    names = [f"{metric[:end]}_stderr{metric[end:]}" for end in ends]
    return next((answered.metrics[name] for name in names if name in answered.metrics), None)


def _unusable(answered: Answered) -> str | None:
    """Return why nothing can be computed from the rows, or None."""
    if is_loss(answered.metric):
        return "the metric of answers is the loss"
    if any(rows is None for rows in (answered.outcomes, answered.predictions, answered.labels)):
        return "it lacks outcomes, predictions or labels"
    if answered.scored_by and answered.definition_sha256 is None:
        return f"scored_by is {answered.scored_by}, and a built-in task is scored here"
    if (answered.generations is None) == (answered.log_likelihoods is None):
        return "it must have either log_likelihoods or generations"
    return _unusable_texts(answered) if answered.generations is not None else _unusable_choices(answered)


def _unusable_texts(answered: Answered) -> str | None:
    """Return why nothing can be computed from generated answers, or None."""
    if answered.choice_lengths is not None or answered.ties is not None:
        return "generated answers with choices"
    return None if all(isinstance(label, str) for label in answered.labels) else "a label that is not a text"


def _unusable_choices(answered: Answered) -> str | None:
    """Return why nothing can be computed from choices, or None."""
    if answered.choice_lengths is None or answered.ties is None:
        return "log_likelihoods without choice_lengths or ties"
    counts = [len(logs) for logs in answered.log_likelihoods]
    if counts != [len(lengths) for lengths in answered.choice_lengths] or min(counts) < 2:
        return "log_likelihoods and choice_lengths have different numbers of choices, or fewer than two"
    if any(isinstance(label, str) or label >= count for label, count in zip(answered.labels, counts, strict=True)):
        return "a label that is not a choice"
    return None


def _row_contradictions(answered: Answered, scores: RowScores) -> Iterator[str]:
    """Yield how many predictions, outcomes and ties do not follow from the rows."""
    if answered.predictions != scores.predictions:
        yield f"{_differing(answered.predictions, scores.predictions)} predictions do not follow from the rows"
    if answered.outcomes.tolist() != scores.outcomes:
        yield f"{_differing(answered.outcomes, scores.outcomes)} outcomes do not follow from predictions and labels"
    if answered.ties != scores.ties:
        yield f"{answered.ties} ties, by the rows {scores.ties}"


def _scores(answered: Answered) -> RowScores:
    """Return the scores that follow from the rows."""
    if answered.generations is not None:
        judged = judge_texts(answered.labels, answered.generations)
        return RowScores(**judged, metrics=generated_metrics(answered.labels, answered.generations))
    judged = judge_choices(answered.labels, answered.log_likelihoods, answered.choice_lengths, answered.metric)
    return RowScores(**judged, metrics=_choice_metrics(answered))


def _choice_metrics(answered: Answered) -> dict[str, float | None]:
    """Return every metric that a task with choices may have."""
    metrics = {}
    # The classes of every task, because a record may be of a task that is not in the table.
    for classes in {task.classes for task in TASKS if task.classes}:
        metrics |= choice_metrics(answered.labels, answered.log_likelihoods, answered.choice_lengths, classes)
    # The bootstrap takes long, so it only runs if the record has its result.
    if F1.standard_error in answered.metrics and F1.name in metrics:
        metrics[F1.standard_error] = f1_standard_error(answered.labels, answered.log_likelihoods)
    return metrics


def _eval_loss_contradictions(scored: Scored) -> Iterator[str]:
    """Yield whether eval_loss differs from that of the losses."""
    if not math.isclose(scored.losses.sum(), scored.eval_loss * scored.answer_tokens.sum(), rel_tol=ROUNDING):
        yield f"eval_loss {scored.eval_loss:g} is not the losses divided by the answer tokens"


def _loss_headline_contradictions(scored: Scored) -> Iterator[str]:
    """Yield what does not follow from the losses of a task whose metric is the loss."""
    answers = (
        "outcomes",
        "predictions",
        "labels",
        "choice_lengths",
        "log_likelihoods",
        "ties",
        "generations",
        "chance",
    )
    if given := [name for name in answers if getattr(scored, name) is not None]:
        yield f"a loss has no {' and no '.join(given)}"
    yield from _eval_loss_contradictions(scored)
    if scored.value != scored.eval_loss:
        yield f"value {scored.value:g} is not eval_loss, {scored.eval_loss:g}"
    error = ratio_error(scored.losses, scored.answer_tokens)
    if not math.isclose(scored.standard_error, error, rel_tol=METRIC_ROUNDING, abs_tol=ROUNDING):
        yield f"standard_error {scored.standard_error:g} is not that of the losses, {error:g}"
    yield from _headline_contradictions(scored)
    expected = {
        LOSS.name: scored.eval_loss,
        LOSS.standard_error: error,
        TOKEN_PERPLEXITY.name: _perplexity(scored.eval_loss),
    }
    yield from _metric_contradictions(scored, expected)


def _perplexity(loss: float) -> float:
    """Return exp(loss), infinity where it is too large for a float."""
    with np.errstate(over="ignore"):
        return float(np.exp(loss))


def _metric_contradictions(answered: Answered, expected: dict[str, float | None]) -> Iterator[str]:
    """Yield the metrics that the rows do not give. A perplexity of a text has no rows, so only its range is checked.

    The metrics of a task that lm-eval scored are not checked."""
    for name, value in answered.metrics.items():
        if name.startswith(PREFIXES):
            if value is not None and value < 1:
                yield f"metrics.{name} is {value:g}, which is below 1"
        elif name in expected:
            if not _equal(value, expected[name]):
                yield f"metrics.{name} is {value}, by the rows {expected[name]}"
        elif answered.scored_by is None:
            yield f"metrics.{name} is {value}, which does not follow from the rows"


def _loss_contradictions(scored: Scored) -> Iterator[str]:
    """Yield how many losses are not those of the right choices.

    Generated answers have no log-likelihoods to compare, and those of choices may stand after worked examples."""
    if scored.log_likelihoods is None or scored.few_shot != scored.loss_few_shot:
        return
    right = np.array([logs[label] for logs, label in zip(scored.log_likelihoods, scored.labels, strict=True)])
    allowed = LOSS_SHARE * scored.losses + LOSS_PER_TOKEN * scored.answer_tokens
    differing = np.abs(scored.losses + right) > allowed
    if differing.any():
        yield f"{differing.sum()} losses are not the log_likelihoods of the right choices"


def _equal(value: float | None, expected: float | None) -> bool:
    """Return whether two values of a metric are equal but for rounding. None only equals None."""
    if value is None or expected is None:
        return value is expected
    return math.isclose(value, expected, rel_tol=METRIC_ROUNDING, abs_tol=ROUNDING)


def _differing(values: list, expected: list) -> int:
    """Return how many entries of two lists differ."""
    return sum(value != other for value, other in zip(values, expected, strict=True))
