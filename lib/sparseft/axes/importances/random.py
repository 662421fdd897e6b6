"""Define random: a random score of each channel, head, expert or decoder layer, the baseline of the other
importances."""

from typing import Any

import numpy as np

from sparseft.axes.importances.importance import Importance


def score_units(observation: Any) -> np.ndarray:
    """Return numbers from 0 to below 1, which are the same on every machine. They depend on the seed and the numbers of
    units."""
    groups, units = observation.shape
    words = np.random.Philox(key=observation.masks.settings.seed).random_raw(groups * units)
    return (words >> 11).reshape(groups, units) / 2**53


RANDOM = Importance(
    name="random",
    formula="random",
    source="",
    ranks=("channels", "experts", "layers"),
    score_units=score_units,
    settings=("seed",),
    is_random=True,
)
