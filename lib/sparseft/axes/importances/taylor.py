"""Define taylor: how much the loss changes, to first order, if the weight becomes zero."""

import numpy as np

from sparseft.axes.importances.gradient import GRADIENT_MAGNITUDES
from sparseft.axes.importances.importance import Importance

TAYLOR = Importance(
    name="taylor",
    formula="mean |w dL/dw|",
    source="Molchanov et al. 2017, arXiv 1611.06440, section 2.2",
    statistic=GRADIENT_MAGNITUDES,
    # The mean over the examples of |w dL/dw| is |w| times the mean of |dL/dw|.
    score=lambda weights, gradients: np.abs(weights) * gradients,
    accumulated="mean over examples of |w dL/dw|, L the mean answer loss of one example",
)
