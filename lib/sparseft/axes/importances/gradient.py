"""Define gradient: how strongly the loss of an example depends on the weight."""

from sparseft.axes.importances.importance import Importance, Statistic

# The mean over the examples of |dL/dW|, (rows, cols).
GRADIENT_MAGNITUDES = Statistic(
    of_gradients=True,
    add=lambda total, gradient: total.add_(gradient.abs_()),
    finish=lambda total, count: total.div_(count),
)
GRADIENT = Importance(
    name="gradient",
    formula="mean |dL/dw|",
    source="Molchanov et al. 2017, arXiv 1611.06440, section 2.2: without the factor w",
    statistic=GRADIENT_MAGNITUDES,
    score=lambda weights, gradients: gradients,
    accumulated="mean over examples of |dL/dw|, L the mean answer loss of one example",
)
