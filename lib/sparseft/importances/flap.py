"""Define flap: how much the output changes from token to token because of the unit.

A unit that always gives the same value could be replaced by a bias. The published code adds this bias to the layer. A
mask holds none, so here it is left out, as in stade.
"""

import numpy as np

from sparseft.importances.importance import Importance
from sparseft.importances.stade import INPUT_DEVIATIONS


def score(weights: np.ndarray, deviations: np.ndarray, column_sums: None) -> np.ndarray:
    """Return w_ij^2 * Var(x_j). The sum over column j is Var(x_j) ||W_:j||^2."""
    return np.square(weights * deviations)


FLAP = Importance(
    name="flap",
    formula="w^2 Var(x)",
    source="An et al. 2023, FLAP, arXiv 2312.11983, section 3.2; lib/prune.py of its code, without its biases, and with"
    " equal shares of all layers instead of standardised scores",
    statistic=INPUT_DEVIATIONS,
    score=score,
    ranks=("channels",),
)
