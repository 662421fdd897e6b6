"""The LoRA layers in plain tensor algebra: what a compiler that traces the model can lower.

The same weights, draws and factors as in masked_lora.py, by inheritance; only the forward differs. No product in
place, no autograd function, and the mask is a tensor of its own.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sparseft.lora.effective_weight import Workspace, carried_mask
from sparseft.lora.masked_lora import LoRALinear, MaskedLoRALinear, StructuredLoRALinear, kind_of
from sparseft.study.config import Training


class PlainLoRALinear(LoRALinear):
    """y = x (W * M)^T + s (dropout(x) A^T) B^T."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in x's dtype."""
        A, B = (matrix.to(x.dtype) for matrix in self.factors())
        low = F.linear(self.dropout(x), A)  # (..., r)
        return F.linear(x, self.weight) + self.scale * F.linear(low, B)


class PlainStructuredLoRALinear(StructuredLoRALinear):
    """The same with factors that are masked by rows and columns."""

    forward = PlainLoRALinear.forward


class PlainMaskedLoRALinear(MaskedLoRALinear):
    """y = x (W * M + s (B A) * M)^T; straight-through: the gradient of A and B passes by M."""

    def __init__(self, weight: Tensor, settings: Training, workspace: Workspace) -> None:
        super().__init__(weight, settings, workspace)
        self.register_buffer("M", carried_mask(weight).to(torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), in x's dtype.

        W is added last, as in effective_weight.py. The bits may differ from there, because the compiler chooses the order of
        the ranks, and because s multiplies B A instead of B."""
        delta = self.scale * (self.lora_B @ self.lora_A)  # (out, in)
        masked = delta * self.M
        if self.gradient == "straight_through":
            masked = delta + (masked - delta).detach()
        return F.linear(x, (self.weight + masked).to(x.dtype))


_PLAIN = {
    LoRALinear: PlainLoRALinear,
    StructuredLoRALinear: PlainStructuredLoRALinear,
    MaskedLoRALinear: PlainMaskedLoRALinear,
}


def plain_kind_of(mode: str, kept: Tensor) -> type[LoRALinear]:
    """`kind_of` in the plain form."""
    return _PLAIN[kind_of(mode, kept)]
