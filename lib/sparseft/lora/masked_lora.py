"""LoRA layers on a pruned, frozen weight: y = x W'^T.

    dense, sparse_to_dense    y = x (W * M)^T + s (x A^T) B^T       W' is dense until the merge masks it
    sparse_to_sparse          y = x W'^T,  W' = (W + s B A) * M     what is pruned stays pruned in every step

LoRA: Hu et al. 2021, arXiv 2106.09685, section 4.1. The masked product: SQFT (arXiv 2410.03750), section 3.3, and
PERP (arXiv 2312.15230), "MaskLoRA". Here W' is not kept for the backward but built again, as in LoRS
(arXiv 2501.08582), with the mask and s in the gradient, which LoRS leaves out.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def keep_bits(kept: Tensor) -> Tensor:
    """bool -> int8, all bits set where kept: the form in which `apply_mask_` takes a mask."""
    return kept.to(torch.int8).neg_()


def apply_mask_(values: Tensor, keep: Tensor) -> Tensor:
    """values * M in place, by a bitwise and: a pruned value is exactly +0.0, also where it was negative or infinite.

    values: any float dtype; keep: int8 as `keep_bits` makes it, same shape. Twenty times masked_fill_'s speed on a
    random mask, which branches."""
    values.view(_INTEGERS[values.element_size()]).bitwise_and_(keep)
    return values


def merged_weight(weight: Tensor, keep: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """W' = (W + s B A) * M, summed in fp32 and rounded to W's dtype once; the merge and the training share it.

    Shapes: weight (out, in), keep int8 (out, in); A (r, in) and B (out, r) in fp32."""
    merged = weight.to(A.dtype, copy=True).addmm_(B, A, alpha=scale)
    return apply_mask_(merged.to(weight.dtype), keep)


class MaskedLoRAFunction(torch.autograd.Function):
    """The masked LoRA layer with its exact gradient.

    Inputs    X (..., in), W (out, in) frozen, M int8 (out, in), A (r, in), B (out, r), s = alpha / r
    Forward   W' = (W + s B A) * M;  Y = X W'^T
    Backward  dX = dY W';  G = (dY^T X) * M;  dB = s G A^T;  dA = s B^T G
    Shapes    Y, dY (..., out); G, W' (out, in), alive inside one call only
    Notes     W' is rebuilt in the backward: only X, W, M, A and B are saved.
    """

    @staticmethod
    def forward(ctx, X, W, M, A, B, s):
        ctx.save_for_backward(X, W, M, A, B)
        ctx.s = s
        return F.linear(X, merged_weight(W, M, A, B, s))

    @staticmethod
    def backward(ctx, dY):
        X, W, M, A, B = ctx.saved_tensors
        dX = dY @ merged_weight(W, M, A, B, ctx.s) if ctx.needs_input_grad[0] else None
        G = apply_mask_(dY.flatten(0, -2).T @ X.flatten(0, -2), M).to(A.dtype)  # (out, in)
        return dX, None, None, ctx.s * (B.T @ G), ctx.s * (A @ G.T).T, None  # G A^T, as the faster product


class LoRALinear(nn.Module):
    """A frozen linear layer (no bias) with a low-rank adapter: y = x W^T + s (x A^T) B^T.

    A (r, in) starts as PEFT's, kaiming-uniform with a = sqrt(5); B (out, r) starts at 0: the first step sees the
    base model. Both are fp32."""

    def __init__(self, weight: Tensor, keep: Tensor, r: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(apply_mask_(weight.clone(), keep), requires_grad=False)
        self.scale = scale
        self.lora_A = nn.Parameter(torch.empty(r, weight.shape[1], device=weight.device))
        self.lora_B = nn.Parameter(torch.zeros(weight.shape[0], r, device=weight.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in x's dtype."""
        low = F.linear(x, self.lora_A.to(x.dtype))  # (..., r)
        return F.linear(x, self.weight) + self.scale * F.linear(low, self.lora_B.to(x.dtype))


class MaskedLoRALinear(LoRALinear):
    """A LoRA layer whose effective weight keeps the mask: y = x ((W + s B A) * M)^T."""

    def __init__(self, weight: Tensor, keep: Tensor, r: int, scale: float) -> None:
        super().__init__(weight, keep, r, scale)
        self.register_buffer("keep", keep, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in x's dtype."""
        return MaskedLoRAFunction.apply(x, self.weight, self.keep, self.lora_A, self.lora_B, self.scale)


def attach(
    model: nn.Module, masks: Callable[[str], Tensor], layers: dict[str, str], mode: str, r: int, scale: float
) -> dict[str, LoRALinear]:
    """Freeze `model` and put a LoRA layer in the place of every linear in `layers`; returns them by layer name.

    `layers`: name on disk -> module path in memory; `masks(layer)`: bool (out, in). A mask without a pruned weight
    needs no masked product: sparse_to_sparse is plain LoRA there."""
    model.requires_grad_(False)
    attached = {}
    for layer, path in layers.items():
        parent, _, name = path.rpartition(".")
        weight = model.get_submodule(path).weight
        kept = masks(layer)
        kind = MaskedLoRALinear if mode == "sparse_to_sparse" and not bool(kept.all()) else LoRALinear
        attached[layer] = kind(weight.detach(), keep_bits(kept).to(weight.device), r, scale)
        setattr(model.get_submodule(parent), name, attached[layer])
    return attached
