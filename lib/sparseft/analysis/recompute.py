"""Every number of an evaluation that follows from its rows, computed again.

What a record says of a model must follow from the log-likelihoods (or the generated texts) and the right answers that it
holds row by row. Whether those right answers are the ones of the data is checked by `check_rows`, where the file is there.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from sparseft.errors import InputError
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.study.grid import DATA
from sparseft.tasks import BY_NAME, TASKS
from sparseft.tasks.metrics import F1
from sparseft.tasks.prepared import check_recorded
from sparseft.tasks.rows import parse_rows, read_row_text
from sparseft.tasks.scoring import (
    chance_of,
    choice_metrics,
    f1_standard_error,
    generated_metrics,
    judge_choices,
    judge_texts,
    labels_digest,
    labels_of,
)
from sparseft.tasks.wikitext2 import PREFIXES

ROUNDING = 1e-9  # relative; of sums in another order
# A loss and the log-likelihood of the same answer come from two forward passes in batches of other sizes, and lm-eval
# rounds and sums the log-probabilities in the model's dtype, where this project takes fp32. In bfloat16 they differed by
# at most 0.23 nats on BoolQ's single tokens, and by at most 0.06 nats a token on HellaSwag, 2.1 of 228 (SmolLM2-135M
# dense, 50 and 80 % pruned, 128 rows, batches of 4, 16 and 32). The bound is more than three times that everywhere.
LOSS_SHARE = 0.05  # of the loss
LOSS_PER_TOKEN = 0.5  # nats per answer token
NOT_CHECKED = "not checked: "


class Scored(Protocol):
    """Name the fields of an evaluation that are recomputed; see evaluation.evaluate."""

    task: str
    metric: str
    metrics: dict[str, float | None]
    chance: float
    labels: list[int] | list[str]
    choice_lengths: list[list[int]] | None
    log_likelihoods: list[list[float]] | None
    generations: list[str] | None
    predictions: list[int] | list[str]
    ties: int | None
    outcomes: np.ndarray
    losses: np.ndarray
    answer_tokens: np.ndarray


def contradictions(scored: Scored) -> Iterator[str]:
    """Yield what does not follow from the rows; all of them must have as many entries as there are examples."""
    fault = _unusable(scored)
    if fault:
        yield fault
        return
    if scored.generations is None:
        metrics = _choice_metrics(scored)
        judged = judge_choices(scored.labels, scored.log_likelihoods, scored.choice_lengths, scored.metric)
        if scored.ties != judged["ties"]:
            yield f"{scored.ties} ties, by the rows {judged['ties']}"
        yield from _loss_contradictions(scored)
    else:
        metrics = generated_metrics(scored.labels, scored.generations)
        judged = judge_texts(scored.labels, scored.generations)
    if scored.predictions != judged["predictions"]:
        yield f"{_differing(scored.predictions, judged['predictions'])} predictions do not follow from the rows"
    if scored.outcomes.tolist() != judged["outcomes"]:
        yield f"{_differing(scored.outcomes, judged['outcomes'])} outcomes do not follow from predictions and labels"
    if not math.isclose(scored.chance, chance_of(scored.choice_lengths), rel_tol=ROUNDING):
        yield f"chance is {scored.chance:g}, by the rows {chance_of(scored.choice_lengths):g}"
    yield from _metric_contradictions(scored, metrics)


def _unusable(scored: Scored) -> str | None:
    """Return why nothing can be computed from the rows, or None."""
    if (scored.generations is None) == (scored.log_likelihoods is None):
        return "it has not one of log_likelihoods and generations"
    if scored.generations is not None:
        if scored.choice_lengths is not None or scored.ties is not None:
            return "generated answers with choices"
        return None if all(isinstance(label, str) for label in scored.labels) else "a label that is no text"
    if scored.choice_lengths is None or scored.ties is None:
        return "log_likelihoods without choice_lengths or ties"
    counts = [len(logs) for logs in scored.log_likelihoods]
    if counts != [len(lengths) for lengths in scored.choice_lengths] or min(counts) < 2:
        return "log_likelihoods and choice_lengths of other choices, or of fewer than two"
    if any(isinstance(label, str) or label >= count for label, count in zip(scored.labels, counts, strict=True)):
        return "a label that is no choice"
    return None


def _choice_metrics(scored: Scored) -> dict[str, float | None]:
    """Return every metric that a task with choices may have."""
    labels, logs = scored.labels, scored.log_likelihoods
    metrics = {}
    # Those of every task, because a record may be of a task that is not in the table.
    for classes in {task.classes for task in TASKS if task.classes}:
        metrics |= choice_metrics(labels, logs, scored.choice_lengths, classes)
    if F1.standard_error in scored.metrics and F1.name in metrics:
        metrics[F1.standard_error] = f1_standard_error(labels, logs)
    return metrics


def _loss_contradictions(scored: Scored) -> Iterator[str]:
    """Yield how many losses are not those of the right choices."""
    right = np.array([logs[label] for logs, label in zip(scored.log_likelihoods, scored.labels, strict=True)])
    allowed = LOSS_SHARE * scored.losses + LOSS_PER_TOKEN * scored.answer_tokens
    apart = np.abs(scored.losses + right) > allowed
    if apart.any():
        yield f"{apart.sum()} losses are not the log_likelihoods of the right choices"


def _metric_contradictions(scored: Scored, expected: dict[str, float | None]) -> Iterator[str]:
    """Yield the metrics that the rows do not give. A perplexity has no rows and cannot be recomputed."""
    for name, value in scored.metrics.items():
        if name.startswith(PREFIXES):
            continue
        if name not in expected:
            yield f"metrics.{name} does not follow from the rows"
        elif not _equal(value, expected[name]):
            yield f"metrics.{name} is {value}, by the rows {expected[name]}"


def _equal(value: float | None, expected: float | None) -> bool:
    if value is None or expected is None:
        return value is expected
    return math.isclose(value, expected, rel_tol=1e-6, abs_tol=ROUNDING)


def _differing(values: list, expected: list) -> int:
    return sum(value != other for value, other in zip(values, expected, strict=True))


def check_rows(scored_digest: str, data: str, task: str, study: Path, known: dict[Path, tuple[str, str]]) -> str:
    """Compare an evaluation's right answers and choice lengths with the validation rows that lie in the study.

    `scored_digest`: `rows_digest` of the evaluation; `data`: the sha256 of the rows that it names. Returns "" where they
    agree, a sentence that begins with NOT_CHECKED where the rows are not there, and else what is wrong. `known` keeps
    what was read of each file: its sha256 and its own digest. Rows that are not those of the manifest beside them are wrong."""
    path = study / DATA.format(task=task) / "validation.jsonl"
    place = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        return f"{NOT_CHECKED}{place} is not there"
    if path not in known:
        known[path] = _digests(path, task)
    found, digest = known[path]
    try:
        check_recorded(path, found)
    except InputError:
        return f"{place} is not the file that its manifest records"
    if found != data:
        return f"{NOT_CHECKED}{place} is another file than the one that was evaluated on"
    return "" if digest == scored_digest else f"labels or choice_lengths are not those of {place}"


def _digests(path: Path, task: str) -> tuple[str, str]:
    """Return the sha256 of a file of rows, and the digest of its labels; that one is empty where the rows are refused."""
    if task not in BY_NAME:
        return sha256(path), ""
    row_format = BY_NAME[task]
    try:
        text = read_row_text(path, row_format)
    except InputError:
        return sha256(path), ""
    found = sha256_of_text(text)
    try:
        rows = parse_rows(text, path, row_format)
    except InputError:
        return found, ""
    return found, labels_digest(*labels_of(rows, row_format))
