"""Return what a run scored by example, on its task or on a probe, so that two runs can be compared example by example."""

from dataclasses import dataclass

import numpy as np

from sparseft.analysis.records import Record

# A run is not compared if a larger share of its validation prompts repeat another.
REPEATED = 0.1


@dataclass(frozen=True)
class Scores:
    """Hold what one run scored by example, (examples,) each.

    `metric` names what is compared. Two runs saw the same examples if `identity` is equal. `outcomes` is None for a task whose
    metric is the loss. A probe has no `losses` and no `answer_tokens`."""

    metric: str
    examples: int
    identity: tuple
    outcomes: np.ndarray | None = None
    losses: np.ndarray | None = None
    answer_tokens: np.ndarray | None = None


def scores_of(record: Record, probe: str | None) -> Scores | None:
    """Return what a run scored on a probe, or on its own task if `probe` is None.

    It is None if the run was not evaluated on the probe, or if its examples repeat one another, because tests assume
    independent examples."""
    if probe is None:
        return _task_scores(record)
    return _probe_scores(record, probe)


def _task_scores(record: Record) -> Scores | None:
    """Return what a run scored on its own task; None if its examples repeat one another."""
    done = record.evaluation
    if done.repeated_prompts > REPEATED:
        return None
    return Scores(
        metric=done.metric,
        examples=done.examples,
        identity=(done.metric, done.examples, done.inputs.data, done.answer_tokens.tobytes()),
        outcomes=done.outcomes,
        losses=done.losses,
        answer_tokens=done.answer_tokens,
    )


def _probe_scores(record: Record, name: str) -> Scores | None:
    """Return what a run scored on a probe; None if it was not evaluated on it. Compared runs have the same settings of a probe."""
    probe = record.evaluation.probes.get(name)
    if probe is None:
        return None
    metric = f"probe:{name}:{probe.metric}"
    return Scores(metric, probe.examples, (metric, probe.examples, probe.data_sha256), probe.outcomes)
