"""Tell Cerebras' compiler which weights of the frozen base are sparse."""

from collections.abc import Callable, Iterable

import cerebras.pytorch as cstorch
import torch
from torch import Tensor, nn


def declare_sparse(model: Callable, masks: Iterable[tuple[str, Tensor]]) -> None:
    """Declare weights as sparse: `masks` are (the weight's name in `model`, kept, bool (out, in)).

    The compiler gets the masks as they are, and their real sparsity as its hint. A weight without a pruned entry stays
    dense. Only the model is told, because the base is in no optimizer."""
    declared = {}
    for name, kept in masks:
        pruned = 1 - kept.count_nonzero().item() / kept.numel()
        if pruned:
            declared[name] = cstorch.sparse.Static(pruned, init_method=_init_with(kept))
    if declared:
        model.apply(cstorch.sparse.Group(declared))


def _init_with(kept: Tensor) -> Callable:
    """Return the function with which the compiler's library gets a mask. The library checks its parameters' names."""

    def mask_of(
        p: nn.Parameter,
        sparsity: torch.FloatTensor,
        score_shaper: cstorch.sparse.utils.ScoreShaper | None = None,
        device: torch.device | None = None,
    ) -> torch.BoolTensor:
        return kept.to(p.device if device is None else device)

    return mask_of
