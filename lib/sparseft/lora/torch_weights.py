"""Build the effective weight and mask a gradient with torch's own operations, on any device.

They take the steps of effective_weight.py one by one, so they give the same bits as the kernels. They take many times as long:
torch has no fused multiply-add in fp32, so it is computed in fp64. They serve a GPU without Triton, and fp64.

All that is computed of a weight and is as large as it is computed in blocks of rows, so that it takes little memory.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sparseft.lora.carried_mask import carried_mask

# Weights per block, by device: enough to keep the products fast, and few enough to take little memory. A GPU has more cores
# to fill. There a block of bfloat16 takes 8 MB, which the L2 cache of a data centre's GPU holds (A100: 40 MB, H100: 50 MB).
BLOCK = {"cpu": 1 << 21, "cuda": 1 << 22}


def row_blocks(weight: Tensor) -> Iterator[slice]:
    """Yield the blocks of rows of a weight (out, in) that are computed together."""
    rows = max(1, BLOCK[weight.device.type] // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        yield slice(start, min(start + rows, weight.shape[0]))


def build(out: Tensor, W: Tensor, A: Tensor, B: Tensor) -> None:
    """Write (W + B A) * M to `out`, as effective_weight.py defines it.

    W and out (rows, cols) are in any float dtype. A (r, cols) and B (rows, r), which holds s B, are fp32, or fp64 with an
    fp64 W."""
    for rows in row_blocks(W):
        total = torch.zeros_like(W[rows], dtype=A.dtype)
        for k in range(A.shape[0]):
            b = B[rows, k : k + 1]
            # torch has no dtype wider than fp64, in which its product would be exact. Only tests compute in fp64.
            total = total + b * A[k] if A.dtype == torch.float64 else fused_multiply_add(b, A[k], total)
        total = total + W[rows].to(A.dtype)
        mask_(total, W[rows])
        out[rows] = total


def mask_(values: Tensor, W: Tensor) -> None:
    """Compute values * M in place. Both are (rows, cols)."""
    values.masked_fill_(~carried_mask(W), 0)


def fused_multiply_add(x: Tensor, y: Tensor, addend: Tensor) -> Tensor:
    """Return x * y + addend, rounded once. All are fp32 and broadcast.

    The product is exact in fp64. The sum is rounded to odd there. Then the rounding to fp32 is that of the exact value, because
    fp64 has more than 2 * 24 + 2 bits (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums: proved
    algorithms using rounding to odd", IEEE Transactions on Computers 57)."""
    product = x.double() * y.double()
    addend = addend.double()
    total = product + addend
    # The exact error of the sum: Knuth's TwoSum.
    added = total - product
    error = (product - (total - added)) + (addend - added)
    # The last bit of a sum that was rounded to an even one becomes odd: the sum moves towards the exact value.
    is_even = total.view(torch.int64) & 1 == 0
    is_rounded = (error != 0) & error.isfinite()
    towards_error = torch.nextafter(total, torch.copysign(torch.full_like(total, torch.inf), error))
    return torch.where(is_even & is_rounded, towards_error, total).float()
