"""Define ean: how large the outputs of the expert are, summed over its tokens (expert activation norm)."""

from typing import Any

import numpy as np

from sparseft.importances.importance import Importance


def score_units(observation: Any) -> np.ndarray:
    """Return the sum of ||f(x)|| over the tokens that have each expert f among their top k."""
    return observation.sum_by_expert(lambda routed: routed.norms.double().sum(0))


EAN = Importance(
    name="ean",
    formula="sum ||f(x)||",
    source="ean_sum in CerebrasResearch/reap@46d78eb, src/reap/observer.py",
    ranks=("experts",),
    score_units=score_units,
    accumulated="sum over the tokens of each expert of the norm of its output",
)
