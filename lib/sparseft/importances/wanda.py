"""Define wanda: the weight's absolute value times the norm of its inputs."""

import numpy as np

from sparseft.importances.importance import Evidence, Importance


def score(weights: np.ndarray, norms: np.ndarray, column_sums: None) -> np.ndarray:
    """Return |w_ij| * ||x_j||."""
    return np.abs(weights) * norms


WANDA = Importance(
    name="wanda",
    formula="|w| ||x||",
    source="Sun et al. 2023, arXiv 2306.11695, section 3",
    evidence=Evidence.INPUT_NORMS,
    # Wanda compares the weights of one row, so it says nothing about whole channels.
    patterns=("unstructured", "semistructured"),
    score=score,
    scope="row",
    accumulated="norm of the inputs over all tokens of all examples",
)
