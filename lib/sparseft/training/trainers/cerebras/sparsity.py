"""Declare weights as sparse to cerebras-pytorch.

ModelZoo's environment imports this too. It has an older pydantic, so nothing here imports the configuration.
"""

from collections.abc import Callable, Iterable
from typing import Any

import cerebras.pytorch as cstorch
import torch
from torch import Tensor, nn


def declare_sparse(model: Any, masks: Iterable[tuple[str, Tensor]]) -> cstorch.sparse.Group | None:
    """Declare weights of a model as sparse, with their masks and their real sparsities, and return the declaration.

    `masks` yields the name of each weight in `model` and its mask, bool (out, in), True = kept. A weight without a
    pruned entry stays dense. The declaration applies only to the model. None if nothing is sparse."""
    declared = {
        name: cstorch.sparse.Static(1 - kept.count_nonzero().item() / kept.numel(), init_method=_init_with(kept))
        for name, kept in masks
        if not kept.all()
    }
    if not declared:
        return None
    sparsity = cstorch.sparse.Group(declared)
    model.apply(sparsity)
    return sparsity


def _init_with(kept: Tensor) -> Callable:
    """Return an init_method that gives the mask `kept`. The package checks the names and types of its parameters."""

    def mask_of(
        p: nn.Parameter,
        sparsity: torch.FloatTensor,
        score_shaper: cstorch.sparse.utils.ScoreShaper | None = None,
        device: torch.device | None = None,
    ) -> torch.BoolTensor:
        return kept.to(device or p.device)

    return mask_of
