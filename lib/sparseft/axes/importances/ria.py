"""Define ria: relative importance and activations. A weight counts by its share of its row and of its column.

If all weights of a row become smaller by the same factor, their shares of the row stay the same. So a channel is not
pruned as a whole only because its weights are small.
"""

import numpy as np

from sparseft.axes.importances.importance import Importance
from sparseft.axes.importances.wanda import INPUT_NORMS


def score(weights: np.ndarray, norms: np.ndarray, column_sums: np.ndarray) -> np.ndarray:
    """Return (|w_ij| / sum_i |w_ij| + |w_ij| / sum_j |w_ij|) * ||x_j||^(1/2). A row or column of zeros scores 0."""
    magnitudes = np.abs(weights)
    row_sums = magnitudes.sum(axis=1, keepdims=True)  # (rows, 1)
    shares = _divided(magnitudes, column_sums) + _divided(magnitudes, row_sums)
    return shares * np.sqrt(norms)


def _divided(magnitudes: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return magnitudes / sums, and 0 where the sum is 0, because then all its weights are 0."""
    return np.divide(magnitudes, sums, out=np.zeros_like(magnitudes), where=sums > 0)


RIA = Importance(
    name="ria",
    formula="(|w| / sum over its column + |w| / sum over its row) ||x||^(1/2)",
    source="Zhang et al., Plug-and-Play, ICLR 2024, with a = 1/2; lib/prune.py of its code, commit 7bc55b0",
    statistic=INPUT_NORMS,
    score=score,
    ranks=("weights",),
    uses_column_sums=True,
)
