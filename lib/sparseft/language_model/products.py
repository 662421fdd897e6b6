"""Choose how a CPU multiplies the large matrices of a backward pass.

    dX = dY W       (T, in), with T tokens
    G  = dY^T X     (out, in), the gradient of W

On a CPU, torch has two ways to multiply. torch.mm uses a BLAS such as MKL for fp32, and oneDNN for bf16 and fp16 if the
processor supports them. The operator `mkldnn._linear_pointwise`, which torch made for its compiler, uses oneDNN for
fp32 too. Which way is faster depends on the processor. So does whether it pays to copy dY^T, whose rows are not
contiguous in memory.

If the processor does not support 16 bits, torch.mm has loops of its own for them, which take up to 400 times as long as
the same product in fp32. Then the matrices are multiplied in fp32, and the product is rounded once.

The choice depends only on the processor's vendor and features, and never on a timing. So a machine always makes the
same choice, and computes the same bits. benchmarks/products.py measures the ways.

The forward pass is always F.linear. The merged model computes it so, and both must give the same bits.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sparseft.language_model.hardware import cpu_fields

# Columns of the left matrix, and rows of the right one, that are widened at a time.
BLOCK = 4096


class Way(NamedTuple):
    """Multiply matrices of one dtype in one of the ways that torch has."""

    # Use oneDNN's operator instead of torch.mm.
    onednn: bool = False
    # Copy a transposed matrix before it is multiplied.
    copy: bool = False
    # Multiply in fp32, and round the product.
    in_fp32: bool = False

    def multiply(self, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """Return left (n, k) @ right (k, m). Only torch.mm writes it to `out` (n, m)."""
        if self.in_fp32:
            product = torch.zeros(left.shape[0], right.shape[1])
            # A head is large, so the matrices are widened block by block.
            for columns, rows in zip(left.split(BLOCK, 1), right.split(BLOCK), strict=True):
                product.addmm_(columns.float(), rows.float())
            return product.to(left.dtype)
        # oneDNN's operator refuses an empty matrix. The batch of an expert may be one.
        if self.onednn and left.numel():
            return torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], "")
        return torch.mm(left, right, out=out)

    def transpose(self, matrix: Tensor) -> Tensor:
        """Return the transposed matrix, as a copy or as a view."""
        return matrix.T.contiguous() if self.copy else matrix.T


def way_of(matrix: Tensor) -> Way:
    """Return how matrices of this dtype are multiplied on this matrix's device."""
    is_on_cpu = matrix.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return ways().get(matrix.dtype, Way()) if is_on_cpu else Way()


@cache
def ways() -> dict[torch.dtype, Way]:
    """Return the ways that are faster than plain torch.mm on this machine's processor, by dtype."""
    slow = {dtype: Way(in_fp32=True) for dtype in (torch.bfloat16, torch.float16) if not has_instructions(dtype)}
    vendor = cpu_fields().get("vendor_id")
    # Measured on two AMD EPYCs (Zen 4, AVX-512), and assumed for all of AMD's: in fp32 oneDNN takes half of MKL's time
    # on one, and 0.95 of it on the other.
    if vendor == "AuthenticAMD":
        return {torch.float32: Way(onednn=True), **slow}
    # Measured on an Intel Xeon with AVX-512 and AMX: MKL takes 0.8 to 0.9 of oneDNN's time in fp32. In bf16, the
    # product of a transposed matrix takes up to 1.6 times as long as copying the matrix and multiplying the copy.
    if vendor == "GenuineIntel" and "amx_tile" in cpu_fields().get("flags", "").split():
        return {torch.bfloat16: Way(copy=True), **slow}
    return slow


def has_instructions(dtype: torch.dtype) -> bool:
    """Return whether oneDNN can multiply 16-bit matrices on this processor."""
    operators = torch.ops.mkldnn
    supports = {
        torch.bfloat16: operators._is_mkldnn_bf16_supported,
        torch.float16: operators._is_mkldnn_fp16_supported,
    }
    return supports[dtype]()


class LinearFunction(torch.autograd.Function):
    """Compute Y = X W^T + b as F.linear does, and its gradients in the way of the processor: dX = dY W, dW = dY^T X,
    db."""

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
        way = way_of(dy)
        of_x, of_w, of_b = ctx.needs_input_grad
        return (
            way.multiply(dy, W).view_as(X) if of_x else None,
            way.multiply(way.transpose(dy), X.flatten(0, -2)) if of_w else None,
            dy.sum(0) if of_b else None,
        )


def linear(X: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """Return F.linear(X, W, b), to the bit. Where 16 bits are slow, its gradients are computed in fp32 and rounded."""
    return LinearFunction.apply(X, W, b) if way_of(X).in_fp32 else F.linear(X, W, b)


class Linear(nn.Linear):
    """Compute what nn.Linear does, by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., out) of x (..., in)."""
        return linear(x, self.weight, self.bias)


def use_products(model: nn.Module) -> nn.Module:
    """Let the linear layers of a model compute by `linear`, and return the model."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return model
