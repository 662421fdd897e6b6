"""Define reap: how much the expert adds to the output of a token that it gets, on average.

p is the router's weight of the expert: the softmax over all experts in fp32. If config.json has norm_topk_prob and the
setting renormalize_router_weights is true, it is divided by the sum over the top k of the token.
"""

from functools import partial
from typing import Any

import numpy as np

from sparseft.axes.importances.importance import Importance


def contributions(routed: Any, renormalizes: bool) -> Any:
    """Return for each expert the sum of p ||f(x)|| over its tokens, and their number, fp64 (2, experts)."""
    import torch

    weights = routed.probabilities
    if renormalizes:
        weights = weights / (weights * routed.chosen).sum(1, keepdim=True)
        weights = weights.clamp(min=torch.finfo(weights.dtype).eps)
    # The norms of experts that a token does not reach are 0.
    return torch.stack([(weights * routed.norms).double().sum(0), routed.chosen.sum(0)])


def score_units(observation: Any) -> np.ndarray:
    """Return the mean of p ||f(x)|| over the tokens that have each expert f among their top k; 0 without a token."""
    masks = observation.masks
    renormalizes = masks.settings.renormalize_router_weights and masks.checkpoint.config.get("norm_topk_prob")
    totals = observation.sum_by_expert(partial(contributions, renormalizes=renormalizes))
    return totals[:, 0] / np.maximum(totals[:, 1], 1)


REAP = Importance(
    name="reap",
    formula="mean p ||f(x)||",
    source="Lasby et al. 2025, arXiv 2510.13999; CerebrasResearch/reap@46d78eb, src/reap/observer.py",
    ranks=("experts",),
    score_units=score_units,
    accumulated="mean over the tokens of each expert of the router's weight times the norm of the expert's output",
    settings=("renormalize_router_weights",),
)
