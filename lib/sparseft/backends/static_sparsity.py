"""Declare the pruned weights of the frozen base as sparse to cerebras-pytorch, for both backends that use it."""

from collections.abc import Callable, Iterable

import cerebras.pytorch as cstorch
import torch
from torch import Tensor, nn


def declare_sparse(model: Callable, masks: Iterable[tuple[str, Tensor]]) -> None:
    """Declare weights of a model as sparse, with their masks and their real sparsities.

    `masks` yields the name of each weight in `model` and its mask, bool (out, in), True = kept. A weight without a pruned
    entry stays dense. The declaration applies only to the model, because no optimizer has the base."""
    declared = {}
    for name, kept in masks:
        pruned = 1 - kept.count_nonzero().item() / kept.numel()
        if pruned:
            declared[name] = cstorch.sparse.Static(pruned, init_method=_init_with(kept))
    if declared:
        model.apply(cstorch.sparse.Group(declared))


def _init_with(kept: Tensor) -> Callable:
    """Return an init_method that gives the mask `kept`. The package checks the names of its parameters."""

    def mask_of(
        p: nn.Parameter,
        sparsity: torch.FloatTensor,
        score_shaper: cstorch.sparse.utils.ScoreShaper | None = None,
        device: torch.device | None = None,
    ) -> torch.BoolTensor:
        return kept.to(p.device if device is None else device)

    return mask_of
