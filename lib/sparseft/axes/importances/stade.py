"""Define stade: the weight's absolute value times the standard deviation of its inputs.

What a constant input adds to the output is a constant, which a bias could replace. The published code also adds this
constant to the biases. A mask holds none, so here it is left out.
"""

from typing import Any

import numpy as np

from sparseft.axes.importances.importance import Importance, Statistic


def add(sums: Any, inputs: Any) -> None:
    """Add the sum of each input column to sums[0], and that of its squares to sums[1]."""
    sums[0] += inputs.sum(dim=0, dtype=sums.dtype)
    sums[1] += inputs.norm(dim=0, dtype=sums.dtype).square()


def finish(sums: Any, count: int) -> Any:
    """Return the standard deviation of each input column over the tokens. Rounding may leave a variance below 0, which
    is 0."""
    mean, mean_square = sums / count
    return (mean_square - mean.square()).clamp(min=0).sqrt().float()


# The standard deviation of each input column over all tokens of the examples, (cols,). Two sums whose difference is the
# variance are in fp64, because the mean may be much larger than the deviation.
INPUT_DEVIATIONS = Statistic(
    shape=lambda rows, cols: (2, cols),
    add=add,
    finish=finish,
    dtype="float64",
    words="standard deviation of the inputs over all tokens of all examples",
)
STADE = Importance(
    name="stade",
    formula="|w| std(x)",
    source="Mecke et al. 2025, arXiv 2503.22451;"
    " lib/prune_zoo/stade.py of its code, commit 654f917, without its biases",
    statistic=INPUT_DEVIATIONS,
    score=lambda weights, deviations: np.abs(weights) * deviations,
    # It compares the weights of one row, as wanda does.
    ranks=("weights",),
    scope="row",
)
