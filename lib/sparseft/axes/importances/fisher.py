"""Define fisher: how much the loss grows, to second order, if the weight becomes zero.

The second derivative is the empirical Fisher information, the sum of the squared gradients of the examples.
"""

import numpy as np

from sparseft.axes.importances.importance import Importance, Statistic

FISHER = Importance(
    name="fisher",
    formula="w^2 sum (dL/dw)^2",
    source="Theis et al. 2018, arXiv 1801.05787, without its factor 1 / 2N; Molchanov et al. 2019, arXiv 1906.10771",
    statistic=Statistic(
        of_gradients=True,
        add=lambda total, gradient: total.add_(gradient.float().square_()),
    ),
    score=lambda weights, squares: np.square(weights) * squares,
    accumulated="sum over examples of (dL/dw)^2, L the mean answer loss of one example",
)
