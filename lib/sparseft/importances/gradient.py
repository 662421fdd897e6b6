"""Define gradient: how strongly the loss of an example depends on the weight."""

import numpy as np

from sparseft.importances.importance import Evidence, Importance


def score(weights: np.ndarray, gradients: np.ndarray, column_sums: None) -> np.ndarray:
    """Return the mean over the examples of |dL/dw|."""
    return gradients


GRADIENT = Importance(
    name="gradient",
    formula="mean |dL/dw|",
    source="Molchanov et al. 2017, arXiv 1611.06440, section 2.2: without the factor w",
    evidence=Evidence.GRADIENTS,
    patterns=("unstructured", "structured", "semistructured"),
    score=score,
    accumulated="mean over examples of |dL/dw|, L the mean answer loss of one example",
)
