"""Define wanda: the weight's absolute value times the norm of its inputs."""

from typing import Any

import numpy as np

from sparseft.axes.importances.importance import Importance, Statistic


def add(squares: Any, inputs: Any) -> None:
    """Add the sum of the squares of each input column."""
    import torch

    squares += torch.linalg.vector_norm(inputs, dim=0, dtype=torch.float32).double().square()


# ||X_j||_2 of each input column over all tokens of the examples, (cols,). Wanda's scaler_row is the mean over samples
# of ||X_j||^2 (locuslab/wanda@42e856e, lib/layerwrapper.py). Its root is this norm divided by a constant, which changes
# no ranking within a layer.
INPUT_NORMS = Statistic(
    shape=lambda rows, cols: (cols,),
    add=add,
    finish=lambda squares, count: squares.sqrt().float(),
    dtype="float64",
    words="norm of the inputs over all tokens of all examples",
)
WANDA = Importance(
    name="wanda",
    formula="|w| ||x||",
    source="Sun et al. 2023, arXiv 2306.11695, section 3",
    statistic=INPUT_NORMS,
    score=lambda weights, norms: np.abs(weights) * norms,
    # It compares the weights of one row. The sum over a column ranks channels, as Wanda-sp does (CASIA-IVA-Lab/FLAP,
    # lib/prune.py).
    scope="row",
)
