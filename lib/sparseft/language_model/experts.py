"""Turn fused experts into the linear layers that their checkpoint holds, because masks and adapters belong to those.

transformers 5 fuses the experts of a Mixtral block into two parameters of 3 dimensions: `mlp.experts.gate_up_proj`
(experts, 2 * channels, hidden) and `mlp.experts.down_proj` (experts, hidden, channels). transformers 4 keeps the names and
the matrices of the checkpoint: `block_sparse_moe.experts.{expert}.w1` (gate), w2 (down) and w3 (up).
"""

import torch
import transformers
from torch import Tensor, nn

from sparseft.architectures import find_architecture
from sparseft.architectures.architecture import Architecture

_IS_FUSED = int(transformers.__version__.split(".")[0]) >= 5


class Expert(nn.Module):
    """Compute one SwiGLU expert: w2(act(w1 x) * w3 x)."""

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, act: nn.Module) -> None:
        super().__init__()
        self.w1 = _linear(gate)
        self.w2 = _linear(down)
        self.w3 = _linear(up)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Return the expert's output (tokens, hidden) for x of the same shape."""
        return self.w2(self.act(self.w1(x)) * self.w3(x))


class Experts(nn.ModuleList):
    """Replace transformers' fused MixtralExperts, with the same inputs and output."""

    def forward(self, x: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts.

        x and the result are (tokens, hidden); top_k_index and top_k_weights are (tokens, k)."""
        out = torch.zeros_like(x)
        for number, expert in enumerate(self):
            token, position = torch.where(top_k_index == number)
            # In training, an expert without a token runs too, so that it has a gradient, of zeros.
            if token.numel() or torch.is_grad_enabled():
                y = expert(x[token]) * top_k_weights[token, position, None]
                out.index_add_(0, token, y.to(out.dtype))
        return out


def unfuse_experts(model: nn.Module) -> None:
    """Replace every fused expert block of a model, in place. A model without experts does not change."""
    experts = find_architecture(model.config.architectures, model.name_or_path).experts
    if experts is None or not _IS_FUSED:
        return
    for layer in model.model.layers:
        block = getattr(layer, experts.in_memory)
        fused = block.experts
        gates_and_ups = fused.gate_up_proj.detach()
        downs = fused.down_proj.detach()
        block.experts = Experts(
            Expert(*gate_and_up.chunk(2), down, fused.act_fn)
            for gate_and_up, down in zip(gates_and_ups, downs, strict=True)
        )


def memory_path(architecture: Architecture, layer: str) -> str:
    """Return the module of a layer, given by its name on disk, in a model whose experts are unfused."""
    experts = architecture.experts
    if experts is None or not _IS_FUSED:
        return layer
    return layer.replace(f".{experts.on_disk}.", f".{experts.in_memory}.")


def _linear(weight: Tensor) -> nn.Linear:
    """Return a linear layer of this very weight (rows, cols), which takes no gradient."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear
