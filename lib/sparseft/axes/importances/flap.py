"""Define flap: how much the output changes from token to token because of the unit.

A unit that always gives the same value could be replaced by a bias. The published code adds this bias to the layer. A
mask holds none, so here it is left out, as in stade.
"""

import numpy as np

from sparseft.axes.importances.importance import Importance
from sparseft.axes.importances.stade import INPUT_DEVIATIONS

FLAP = Importance(
    name="flap",
    formula="w^2 Var(x)",
    source="An et al. 2023, FLAP, arXiv 2312.11983, section 3.2; lib/prune.py of its code, without its biases, and with"
    " equal shares of all layers instead of standardised scores",
    statistic=INPUT_DEVIATIONS,
    # The sum over column j is Var(x_j) ||W_:j||^2.
    score=lambda weights, deviations: np.square(weights * deviations),
    ranks=("channels",),
)
