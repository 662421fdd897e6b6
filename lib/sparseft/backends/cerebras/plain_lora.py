"""The LoRA layers in plain tensor algebra, which a compiler that traces the model can lower.

Weights, draws and factors are inherited from lora/masked_lora.py. Only the forward differs: it has no product in place and no
autograd function, and the mask is a tensor of its own.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sparseft.lora.effective_weight import Workspace
from sparseft.lora.factors import masked_update
from sparseft.lora.masked_lora import LoRALinear, MaskedLoRALinear, StructuredLoRALinear, kind_of
from sparseft.study.schedule import Training


class PlainLoRALinear(LoRALinear):
    """Compute y = x (W * M)^T + b + s (dropout(x) A^T) B^T."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), in x's dtype."""
        A, B = (matrix.to(x.dtype) for matrix in self.factors())
        # (..., r)
        low = F.linear(self.dropout(x), A)
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(low, B)


class PlainStructuredLoRALinear(StructuredLoRALinear):
    """Compute the same with factors that are masked by rows and columns."""

    forward = PlainLoRALinear.forward


class PlainMaskedLoRALinear(MaskedLoRALinear):
    """Compute y = x (W * M + s (B A) * M)^T + b. The straight-through gradient of A and B ignores M."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, kept: Tensor, settings: Training, workspace: Workspace
    ) -> None:
        super().__init__(weight, bias, kept, settings, workspace)
        self.register_buffer("M", kept.to(torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), in x's dtype.

        W is added last, as in effective_weight.py. The bits may differ from there, because the compiler chooses the order of
        the ranks, and because s multiplies B A instead of B."""
        update = masked_update(self.lora_A, self.lora_B, self.scale, self.M, self.gradient)
        return F.linear(x, (self.weight + update).to(x.dtype), self.bias)


_PLAIN = {
    LoRALinear: PlainLoRALinear,
    StructuredLoRALinear: PlainStructuredLoRALinear,
    MaskedLoRALinear: PlainMaskedLoRALinear,
}


def plain_kind_of(mode: str, kept: Tensor) -> type[LoRALinear]:
    """Return the plain form of the layer class that `kind_of` chooses for a mode and a mask (out, in)."""
    return _PLAIN[kind_of(mode, kept)]
