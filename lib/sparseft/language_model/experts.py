"""Mixtral's experts as the linear layers that its checkpoint holds.

transformers 5 fuses the experts of a block into two 3-d parameters, `mlp.experts.gate_up_proj` (E, 2 I, H) and
`mlp.experts.down_proj` (E, H, I). Masks and adapters belong to single matrices: w1 (gate), w3 (up), w2 (down).
transformers 4 keeps them apart, `block_sparse_moe.experts.{e}.w{1,2,3}`, as they stand on disk.
"""

import torch
import transformers
from torch import Tensor, nn

_FUSED = int(transformers.__version__.split(".")[0]) >= 5


class Expert(nn.Module):
    """One SwiGLU expert: w2(act(w1 x) * w3 x)."""

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, act: nn.Module) -> None:
        super().__init__()
        self.w1, self.w2, self.w3, self.act = _linear(gate), _linear(down), _linear(up), act

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, H) -> (tokens, H)."""
        return self.w2(self.act(self.w1(x)) * self.w3(x))


class Experts(nn.ModuleList):
    """Takes the place of transformers' fused MixtralExperts, same inputs and output."""

    def forward(self, x: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """x (tokens, H), top_k_index and top_k_weights (tokens, k) -> (tokens, H)."""
        out = torch.zeros_like(x)
        for number, expert in enumerate(self):
            token, position = torch.where(top_k_index == number)
            if token.numel() or torch.is_grad_enabled():  # an expert without a token has a gradient, of zeros
                y = expert(x[token]) * top_k_weights[token, position, None]
                out.index_add_(0, token, y.to(out.dtype))
        return out


def unfuse_experts(model: nn.Module) -> None:
    """Replace every fused expert block of a Mixtral model, in place; any other model is left as it is."""
    for layer in model.model.layers:
        fused = getattr(getattr(layer, "mlp", None), "experts", None)
        if fused is not None:
            pairs = zip(fused.gate_up_proj.detach(), fused.down_proj.detach(), strict=True)
            layer.mlp.experts = Experts(Expert(*up.chunk(2), down, fused.act_fn) for up, down in pairs)


def memory_path(layer: str) -> str:
    """A layer's name on disk -> its module in a model whose experts are unfused."""
    return layer.replace(".block_sparse_moe.", ".mlp.") if _FUSED else layer


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear
