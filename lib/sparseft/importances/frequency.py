"""Define frequency: how many tokens reach the expert."""

from typing import Any

import numpy as np

from sparseft.importances.importance import Importance


def score_units(observation: Any) -> np.ndarray:
    """Return the number of tokens that have each expert among their top k."""
    return observation.sum_by_expert(lambda routed: routed.chosen.sum(0))


FREQUENCY = Importance(
    name="frequency",
    formula="number of its tokens",
    source="expert_frequency in CerebrasResearch/reap@46d78eb, src/reap/observer.py",
    ranks=("experts",),
    score_units=score_units,
    accumulated="number of tokens of each expert",
)
