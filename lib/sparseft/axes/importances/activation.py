"""Define activation: how large the values are that the unit computes, whatever is made of them."""

import numpy as np

from sparseft.axes.importances.importance import Importance
from sparseft.axes.importances.wanda import INPUT_NORMS

ACTIVATION = Importance(
    name="activation",
    formula="||x||",
    source="Sandri et al. 2025, 2SSP, arXiv 2501.17771, section 3.1;"
    " the same over all tokens instead of a mean over examples",
    statistic=INPUT_NORMS,
    score=lambda weights, norms: np.broadcast_to(norms, weights.shape),
    ranks=("channels",),
)
