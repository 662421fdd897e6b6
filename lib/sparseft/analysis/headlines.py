"""Say of a headline metric what tables and pages need: its words, its unit, and which direction is better.

A headline is a fraction from 0 to 1, of which more is better, or a loss in nats per token, of which less is better. A metric
that no built-in task reports, such as one of a user's own lm-eval task, is a fraction and is called by its name.
"""

import pandas as pd

from sparseft.tasks import METRICS
from sparseft.tasks.metrics import LOSS

_METRICS = {metric.name: metric for metric in (*METRICS, LOSS)}


def metric_name(metric: str) -> str:
    """Return what figures call a metric."""
    return _METRICS[metric].label if metric in _METRICS else metric


def metric_phrase(metric: str) -> str:
    """Return what sentences call a metric."""
    return (_METRICS[metric].phrase if metric in _METRICS else "") or metric


def is_loss(metric: str) -> bool:
    """Return whether a metric is a loss. A loss has no outcomes, no chance and no upper end."""
    return metric == LOSS.name


def gain(metric: str) -> int:
    """Return 1 if a higher value is better, else -1. A value times this is the larger, the better it is."""
    return -1 if metric in _METRICS and not _METRICS[metric].higher_is_better else 1


def are_losses(table: pd.DataFrame) -> pd.Series:
    """Return for each row of a table whether its metric is a loss."""
    return pd.Series([is_loss(metric) for metric in table["metric"]], index=table.index, dtype=bool)


def gains(table: pd.DataFrame) -> pd.Series:
    """Return for each row of a table 1 if a higher value of its metric is better, else -1."""
    return pd.Series([gain(metric) for metric in table["metric"]], index=table.index, dtype=int)
