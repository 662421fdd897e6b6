"""Build the effective weight on a GPU, in a Triton kernel with one pass over W.

The kernel is elementwise. It uses no tl.dot, which may round to TF32 and sums in an order of its own. Its launch has
one fixed configuration, because autotuning chooses by time, and two processes could choose differently. The
multiply-add is explicit, and the compiler may not fuse anything else.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl

from sparseft.lora.carried_mask import bits_of, minus_zero

# The tile of one program, and the groups of 32 threads that share it. A thread has 64 weights then, which fit its
# registers, and loads 17 numbers for 64 multiply-adds.
_ROWS = 16
_COLS = 512
_WARPS = 4


def build(out: Tensor, W: Tensor, A: Tensor, B: Tensor) -> None:
    """Write (W + B A) * M to `out`, as effective_weight.py defines it.

    W and out (rows, cols) are bf16, fp16 or fp32. A (r, cols) and B (rows, r), which holds s B, are fp32."""
    rows, cols = W.shape
    tiles = (triton.cdiv(rows, _ROWS), triton.cdiv(cols, _COLS))
    weights = bits_of(W)
    merged = bits_of(out)
    # Triton uses the current GPU, which need not be W's.
    with torch.cuda.device_of(W):
        _build_tile[tiles](
            weights,
            merged,
            rows,
            cols,
            weights.stride(0),
            merged.stride(0),
            A.contiguous(),
            B.contiguous(),
            A.shape[0],
            DTYPE=str(W.dtype),
            SIGN=minus_zero(weights),
            ROWS=_ROWS,
            COLS=_COLS,
            num_warps=_WARPS,
            enable_fp_fusion=False,
        )


@triton.jit
def _build_tile(
    W,
    out,
    rows,
    cols,
    W_stride,
    out_stride,
    A,
    B,
    rank,
    DTYPE: tl.constexpr,
    SIGN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Write one tile of (W + B A) * M. W and out are the bits of weights of DTYPE; A (rank, cols), B (rows, rank) are
    fp32."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    is_row = row < rows
    is_col = col < cols
    inside = is_row[:, None] & is_col[None, :]
    sums = tl.full((ROWS, COLS), 0.0, tl.float32)
    for k in range(rank):
        b = tl.load(B + row * rank + k, mask=is_row, other=0.0)
        a = tl.load(A + k * cols + col, mask=is_col, other=0.0)
        sums = tl.fma(tl.broadcast_to(b[:, None], (ROWS, COLS)), tl.broadcast_to(a[None, :], (ROWS, COLS)), sums)
    # A weight may have more than 2^31 entries.
    wide_row = row.to(tl.int64)[:, None]
    bits = tl.load(W + wide_row * W_stride + col[None, :], mask=inside, other=SIGN)
    merged = _round(sums + _widen(bits, DTYPE), DTYPE)
    merged = tl.where(bits == SIGN, 0, merged)
    tl.store(out + wide_row * out_stride + col[None, :], merged, mask=inside)


@triton.jit
def _widen(bits, DTYPE: tl.constexpr):
    """Return the fp32 values of the bits of DTYPE."""
    if DTYPE == "torch.bfloat16":
        return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif DTYPE == "torch.float16":
        return bits.to(tl.float16, bitcast=True).to(tl.float32)
    else:
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def _round(values, DTYPE: tl.constexpr):
    """Return the bits of fp32 values in DTYPE, rounded to nearest even."""
    if DTYPE == "torch.bfloat16":
        bits = values.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # The addition would turn a NaN whose bits are all set into -0.0.
        return tl.where(values == values, rounded, 0x7FC0).to(tl.int16)
    elif DTYPE == "torch.float16":
        return values.to(tl.float16).to(tl.int16, bitcast=True)
    else:
        return values.to(tl.int32, bitcast=True)
