"""Define gradient: how strongly the loss of an example depends on the weight."""

import numpy as np

from sparseft.importances.importance import Importance, Statistic

# The mean over the examples of |dL/dW|, (rows, cols).
GRADIENT_MAGNITUDES = Statistic(
    of_gradients=True,
    shape=lambda rows, cols: (rows, cols),
    add=lambda total, gradient: total.add_(gradient.abs_()),
    finish=lambda total, count: total.div_(count),
)


def score(weights: np.ndarray, gradients: np.ndarray, column_sums: None) -> np.ndarray:
    """Return the mean over the examples of |dL/dw|."""
    return gradients


GRADIENT = Importance(
    name="gradient",
    formula="mean |dL/dw|",
    source="Molchanov et al. 2017, arXiv 1611.06440, section 2.2: without the factor w",
    statistic=GRADIENT_MAGNITUDES,
    score=score,
    accumulated="mean over examples of |dL/dw|, L the mean answer loss of one example",
)
