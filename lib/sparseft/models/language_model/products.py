"""Multiply the large matrices of a backward pass on a CPU that does not support 16 bits.

    dX = dY W       (T, in), with T tokens
    G  = dY^T X     (out, in), the gradient of W

On such a processor, torch.mm has loops of its own for 16 bits, which take up to 400 times as long as the same product
in fp32. So the matrices are multiplied in fp32, and the product is rounded once. Everywhere else torch.mm multiplies.

The forward pass is always F.linear. The merged model computes it so, and both must give the same bits.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Columns of the left matrix, and rows of the right one, that are widened at a time.
BLOCK = 4096


def multiply(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Return left (n, k) @ right (k, m). Only torch.mm writes it to `out` (n, m)."""
    if not is_widened(left):
        return torch.mm(left, right, out=out)
    product = torch.zeros(left.shape[0], right.shape[1])
    # A head is large, so the matrices are widened block by block.
    for columns, rows in zip(left.split(BLOCK, 1), right.split(BLOCK), strict=True):
        product.addmm_(columns.float(), rows.float())
    return product.to(left.dtype)


def is_widened(matrix: Tensor) -> bool:
    """Return whether matrices of this dtype are multiplied in fp32 on this matrix's device."""
    return matrix.device.type == "cpu" and is_slow(matrix.dtype)


@cache
def is_slow(dtype: torch.dtype) -> bool:
    """Return whether oneDNN cannot multiply matrices of this dtype on this processor, so that torch's loops would."""
    operators = torch.ops.mkldnn
    supports = {
        torch.bfloat16: operators._is_mkldnn_bf16_supported,
        torch.float16: operators._is_mkldnn_fp16_supported,
    }
    return dtype in supports and torch.backends.mkldnn.is_available() and not supports[dtype]()


class LinearFunction(torch.autograd.Function):
    """Compute Y = X W^T + b as F.linear does, and its gradients in fp32, rounded: dX = dY W, dW = dY^T X, db."""

    @staticmethod
    def forward(ctx, X, W, b):
        """Return Y (..., out) of X (..., in), W (out, in) and b (out,) or None."""
        ctx.save_for_backward(X, W)
        return F.linear(X, W, b)

    @staticmethod
    @once_differentiable
    def backward(ctx, dY):
        """Return the gradients that are asked for, and None for the others."""
        X, W = ctx.saved_tensors
        dy = dY.flatten(0, -2)
        of_x, of_w, of_b = ctx.needs_input_grad
        return (
            multiply(dy, W).view_as(X) if of_x else None,
            multiply(dy.T, X.flatten(0, -2)) if of_w else None,
            dy.sum(0) if of_b else None,
        )


def linear(X: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """Return F.linear(X, W, b), to the bit. Where 16 bits are slow, its gradients are computed in fp32 and rounded."""
    return LinearFunction.apply(X, W, b) if is_widened(X) else F.linear(X, W, b)


class Linear(nn.Linear):
    """Compute what nn.Linear does, by `linear`."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None) -> None:
        """The layer has these very parameters: weight (out, in) and bias (out,)."""
        super().__init__(*weight.T.shape, bias=bias is not None, device="meta")
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., out) of x (..., in)."""
        return linear(x, self.weight, self.bias)


def use_products(model: nn.Module) -> nn.Module:
    """Replace the linear layers of a model by layers that compute by `linear`, and return the model."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.Linear:
                setattr(parent, name, Linear(module.weight, module.bias))
    return model
