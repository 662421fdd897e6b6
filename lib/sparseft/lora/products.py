"""Choose how a CPU multiplies the large matrices of a masked layer's backward pass.

    dX = dY W'      (T, in), with T tokens
    G  = dY^T X     (out, in)

On a CPU, torch has two ways to multiply. torch.mm uses a BLAS such as MKL for fp32, and oneDNN for bf16 and fp16 if the
processor supports them. The operator `mkldnn._linear_pointwise`, which torch made for its compiler, uses oneDNN for fp32 too.
Which way is faster depends on the processor. So does whether it pays to copy dY^T, whose rows are not contiguous in memory.

The choice depends only on the processor's vendor and features, and never on a timing. So a machine always makes the same choice,
and computes the same bits. benchmarks/products.py measures the ways.

The forward pass is always F.linear. The merged model computes it so, and both must give the same bits.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from sparseft.language_model.hardware import cpu_fields


class Way(NamedTuple):
    """Multiply matrices of one dtype in one of the ways that torch has."""

    # Use oneDNN's operator instead of torch.mm.
    onednn: bool = False
    # Copy a transposed matrix before it is multiplied.
    copy: bool = False

    def multiply(self, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """Return left (n, k) @ right (k, m). torch.mm writes it to `out` (n, m); oneDNN does not use `out`."""
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
    vendor = cpu_fields().get("vendor_id")
    # Measured on two AMD EPYCs (Zen 4, AVX-512), and assumed for all of AMD's: in fp32 oneDNN takes half of MKL's time on one,
    # and 0.95 of it on the other.
    if vendor == "AuthenticAMD":
        return {torch.float32: Way(onednn=True)}
    # Measured on an Intel Xeon with AVX-512 and AMX: MKL takes 0.8 to 0.9 of oneDNN's time in fp32. In bf16, the product of a
    # transposed matrix takes up to 1.6 times as long as copying the matrix and multiplying the copy.
    if vendor == "GenuineIntel" and "amx_tile" in cpu_fields().get("flags", "").split():
        return {torch.bfloat16: Way(copy=True)}
    return {}
