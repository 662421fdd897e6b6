"""Define activation: how large the values are that the unit computes, whatever is made of them."""

import numpy as np

from sparseft.importances.importance import Importance
from sparseft.importances.wanda import INPUT_NORMS


def score(weights: np.ndarray, norms: np.ndarray, column_sums: None) -> np.ndarray:
    """Return ||x_j|| for each weight of column j."""
    return np.broadcast_to(norms, weights.shape)


ACTIVATION = Importance(
    name="activation",
    formula="||x||",
    source="Sandri et al. 2025, 2SSP, arXiv 2501.17771, section 3.1;"
    " the same over all tokens instead of a mean over examples",
    statistic=INPUT_NORMS,
    score=score,
    ranks=("channels",),
)
