"""Compute Mixtral's expert block without routing by value: every expert sees every token, weighted by the router.

Source: Jiang et al. 2024, arXiv 2401.04088, section 2.1. Stock Mixtral gathers the tokens of each expert, for which the
host reads their indices. Here an expert that is not among a token's k best has the weight 0. It is E / k times the work.
"""

import torch
from torch import Tensor, nn

from sparseft.architectures import find_architecture


class DenseExperts(nn.Module):
    """Replace transformers' MixtralSparseMoeBlock. Its modules and their names stay."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.gate = block.gate
        self.experts = block.experts
        self.top_k = block.top_k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, T, H) for x (B, T, H), and the router's logits (B, T, E)."""
        logits = self.gate(x)
        weights = top_k_weights(logits, self.top_k).to(x.dtype)
        parts = [expert(x) * weights[..., e : e + 1] for e, expert in enumerate(self.experts)]
        return sum(parts[1:], parts[0]), logits


def make_experts_dense(model: nn.Module) -> None:
    """Replace every expert block of a model of transformers 4 by `DenseExperts`, in place."""
    experts = find_architecture(model.config.architectures, model.name_or_path).experts
    if experts is None:
        return
    for layer in model.model.layers:
        setattr(layer, experts.on_disk, DenseExperts(getattr(layer, experts.on_disk)))


def top_k_weights(logits: Tensor, k: int) -> Tensor:
    """Return the weights of the experts (..., E), in fp32, from the router's logits (..., E).

    It is softmax, set to 0 outside the k most probable experts, and divided by its sum. An expert's rank is the number of
    experts before it. Of equally probable experts, the first comes first."""
    p = torch.softmax(logits.float(), dim=-1)
    ranks = []
    for e in range(p.shape[-1]):
        own = p[..., e : e + 1]
        more_probable = (p > own).float().sum(-1)
        # The device has no sum over an empty axis.
        equal_before = (p[..., :e] == own).float().sum(-1) if e else torch.zeros_like(more_probable)
        ranks.append(more_probable + equal_before)
    kept = p * (torch.stack(ranks, dim=-1) < k).float()
    return kept / kept.sum(-1, keepdim=True)
