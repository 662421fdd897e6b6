"""Define fisher: how much the loss grows, to second order, if the weight becomes zero.

The second derivative is the empirical Fisher information, the sum of the squared gradients of the examples.
"""

import numpy as np

from sparseft.importances.importance import Importance, Statistic


def score(weights: np.ndarray, squares: np.ndarray, column_sums: None) -> np.ndarray:
    """Return w^2 times the sum over the examples of (dL/dw)^2."""
    return np.square(weights) * squares


FISHER = Importance(
    name="fisher",
    formula="w^2 sum (dL/dw)^2",
    source="Theis et al. 2018, arXiv 1801.05787, without its factor 1 / 2N; Molchanov et al. 2019, arXiv 1906.10771",
    statistic=Statistic(
        of_gradients=True,
        shape=lambda rows, cols: (rows, cols),
        add=lambda total, gradient: total.add_(gradient.float().square_()),
        finish=lambda total, count: total,
    ),
    score=score,
    accumulated="sum over examples of (dL/dw)^2, L the mean answer loss of one example",
)
