"""Mixtral's expert block without routing by value: every expert sees every token, weighted by the router's top k.

Jiang et al. 2024, arXiv 2401.04088, section 2.1, computed densely: where stock Mixtral gathers the tokens of an expert,
which reads indices on the host, here an expert that is not among a token's k has the weight 0. E / k times the work.
"""

import torch
from torch import Tensor, nn


class DenseExperts(nn.Module):
    """Takes the place of transformers' MixtralSparseMoeBlock, and keeps its modules and their names."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.gate, self.experts, self.top_k = block.gate, block.experts, block.top_k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, H) -> (B, T, H), and the router's logits (B, T, E)."""
        logits = self.gate(x)
        weights = top_k_weights(logits, self.top_k).to(x.dtype)
        parts = [expert(x) * weights[..., e : e + 1] for e, expert in enumerate(self.experts)]
        return sum(parts[1:], parts[0]), logits


def top_k_weights(logits: Tensor, k: int) -> Tensor:
    """(..., E) -> (..., E), fp32: softmax, 0 outside the k most probable, the rest divided by its sum.

    An expert's rank is the number of those before it; of equals the first comes first."""
    p = torch.softmax(logits.float(), dim=-1)
    experts = p.shape[-1]
    ranks = []
    for e in range(experts):
        mine = p[..., e : e + 1]
        before = (p > mine).float().sum(-1)
        ties = (p[..., :e] == mine).float().sum(-1) if e else torch.zeros_like(before)
        ranks.append(before + ties)
    kept = p * (torch.stack(ranks, dim=-1) < k).float()
    return kept / kept.sum(-1, keepdim=True)
