"""Define the statistic of the algorithms that update weights: the Hessian of a layer's squared output error."""

from typing import Any

from sparseft.axes.importances.importance import Statistic


def add(total: Any, inputs: Any) -> None:
    """Add x x^T of each token's inputs x, in fp32."""
    inputs = inputs.float()
    total.addmm_(inputs.T, inputs)


# The sum of x x^T over all tokens of the examples, (cols, cols).
HESSIAN = Statistic(
    shape=lambda rows, cols: (cols, cols),
    add=add,
    words="sum of x x^T over all tokens of all examples",
)
