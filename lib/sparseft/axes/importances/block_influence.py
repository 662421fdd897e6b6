"""Define block_influence: how much a decoder layer turns the hidden states."""

from typing import Any

import numpy as np

from sparseft.axes.importances.importance import Importance


def distance(inputs: Any, outputs: Any) -> Any:
    """Return the sum over the tokens of 1 - cos(x, y) for inputs x and outputs y, (tokens, H)."""
    from torch.nn.functional import cosine_similarity

    cosines = cosine_similarity(inputs.float(), outputs.float(), dim=-1)
    return (1 - cosines.double()).sum()


def score_units(observation: Any) -> np.ndarray:
    """Return the mean of 1 - cos(x, y) over all tokens for each decoder layer."""
    tokens = sum(len(example.ids) for example in observation.examples)
    return observation.sum_by_layer(distance)[None] / tokens


BLOCK_INFLUENCE = Importance(
    name="block_influence",
    formula="1 - mean cos(x, y)",
    source="Men et al. 2024, ShortGPT, arXiv 2403.03853",
    ranks=("layers",),
    score_units=score_units,
    accumulated="mean over all tokens of 1 - the cosine of a decoder layer's input and output",
)
