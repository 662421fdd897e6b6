"""Describe headline metrics for tables and pages: their words, and which direction is better.

A headline is a fraction from 0 to 1, where more is better, or a loss in nats per token, where less is better. A metric that no
built-in task reports is one of lm-eval's, and has lm-eval's name.
"""

import pandas as pd

from sparseft.tasks import METRICS
from sparseft.tasks.metrics import LOSS, Metric, lm_eval_metric

_METRICS = {metric.name: metric for metric in (*METRICS, LOSS)}


def metric_name(name: str) -> str:
    """Return what figures call a metric."""
    return _metric(name).label


def metric_phrase(name: str) -> str:
    """Return what sentences call a metric."""
    return _metric(name).phrase or name


def is_loss(name: str) -> bool:
    """Return whether a metric is a loss. A loss has no outcomes, no chance and no upper limit."""
    return name == LOSS.name


def gain(name: str) -> int:
    """Return 1 if a higher value is better, else -1. A better value gives a larger product with it."""
    return 1 if _metric(name).higher_is_better else -1


def are_losses(table: pd.DataFrame) -> pd.Series:
    """Return for each row of a table whether its metric is a loss."""
    return pd.Series([is_loss(metric) for metric in table["metric"]], index=table.index, dtype=bool)


def gains(table: pd.DataFrame) -> pd.Series:
    """Return for each row of a table 1 if a higher value of its metric is better, else -1."""
    return pd.Series([gain(metric) for metric in table["metric"]], index=table.index, dtype=int)


def _metric(name: str) -> Metric:
    """Return the metric with this name."""
    return _METRICS[name] if name in _METRICS else lm_eval_metric(name, f"{name}_stderr")
