"""Compute with the weights of a masked layer on a GPU, in Triton kernels: build W', and take the gradients of A and B.

Each kernel reads a weight once, and is bound by it. A launch has one fixed configuration, because autotuning chooses by
time, and two processes could choose differently. No sum depends on the order in which programs end.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl

from sparseft.training.lora.carried_mask import bits_of, mask_, minus_zero

# The tile of W' of one program, and the groups of 32 threads that share it. A thread has 64 weights then, which fit its
# registers, and loads 17 numbers for 64 multiply-adds.
_ROWS, _COLS = tl.constexpr(16), tl.constexpr(512)
_LAUNCH = {"num_warps": 4, "enable_fp_fusion": False}
# The part of a gradient that one program reads, in tiles of so many rows, and the most ranks that it computes. Two such
# programs fit an H100's multiprocessor, which spills no register.
_TILES, _TILE_ROWS, _TILE_COLS = tl.constexpr(4), tl.constexpr(64), tl.constexpr(128)
_TILE_RANKS = 32
# The kernel reads a gradient again for every _TILE_RANKS. Above this rank, masking it once is faster.
MOST_RANKS = 64


def build(out: Tensor, W: Tensor, A: Tensor, B: Tensor) -> None:
    """Write (W + B A) * M to `out`, as effective_weight.py defines it.

    W and out (rows, cols) are bf16, fp16 or fp32. A (r, cols) and B (rows, r), which holds s B, are fp32."""
    rows, cols = W.shape
    tiles = (triton.cdiv(rows, _ROWS.value), triton.cdiv(cols, _COLS.value))
    bits = tl.int32 if W.dtype == torch.float32 else tl.int16
    # The rows of one rank lie together in B, as the columns do in A. A caller's B may be so already.
    factors = (A.contiguous(), B.T.contiguous(), A.shape[0])
    # Triton uses the current GPU, which need not be W's.
    with torch.cuda.device_of(W):
        matrices = (W, out, rows, cols, W.stride(0), out.stride(0))
        _build_tile[tiles](*matrices, *factors, bits, minus_zero(bits_of(W)), **_LAUNCH)


def add_gradients(dA: Tensor, dB: Tensor, G: Tensor, W: Tensor, A: Tensor, B: Tensor) -> None:
    """Add B^T (G * M) to dA (r, cols), and write (G * M) A^T to dB (rows, r). G may be masked in place.

    G (rows, cols) and W, which carries M, are bf16 or fp16. The others are fp32; A (r, cols) and B (rows, r) are
    rounded to G's dtype. The products are summed in fp32."""
    rows, cols = G.shape
    r = A.shape[0]
    if r > MOST_RANKS:
        mask_(G, W)
        dA += torch.mm(B.to(G.dtype).T, G, out_dtype=torch.float32)
        torch.mm(G, A.to(G.dtype).T, out_dtype=torch.float32, out=dB)
        return
    # tl.dot takes no fewer than 16.
    ranks = min(_TILE_RANKS, max(16, triton.next_power_of_2(r)))
    parts = (triton.cdiv(rows, _TILES.value * _TILE_ROWS.value), triton.cdiv(cols, _TILE_COLS.value))
    # Each program writes its own sums, and torch adds them in a fixed order.
    dA_parts = torch.empty(parts[0], r, cols, device=G.device)
    dB_parts = torch.empty(parts[1], rows, r, device=G.device)
    weights = bits_of(W)
    with torch.cuda.device_of(G):
        matrices = (G, weights, rows, cols, G.stride(0), weights.stride(0))
        factors = (A.contiguous(), B.contiguous(), dA_parts, dB_parts, r)
        programs = (*parts, triton.cdiv(r, ranks))
        _gradients_part[programs](*matrices, *factors, minus_zero(weights), ranks, num_stages=2, **_LAUNCH)
    dA += dA_parts.sum(0)
    torch.sum(dB_parts, 0, out=dB)


@triton.jit
def _build_tile(W, out, rows, cols, W_stride, out_stride, A, B, rank, BITS: tl.constexpr, SIGN: tl.constexpr):
    """Write one tile of (W + B A) * M. BITS is an integer as wide as a weight of W and out; A (rank, cols), B (rank,
    rows) are fp32.

    The sum is elementwise. tl.dot may round to TF32, and sums in an order of its own. The multiply-add is explicit, and
    the compiler may not fuse anything else."""
    row = tl.program_id(0) * _ROWS + tl.arange(0, _ROWS)[:, None]
    col = tl.program_id(1) * _COLS + tl.arange(0, _COLS)[None, :]
    inside = (row < rows) & (col < cols)
    sums = tl.full((_ROWS, _COLS), 0.0, tl.float32)
    for k in range(rank):
        # Loaded as a column and a row of the tile: a vector would be sent around between the threads first.
        b = tl.load(B + k * rows + row, mask=row < rows, other=0.0)
        a = tl.load(A + k * cols + col, mask=col < cols, other=0.0)
        sums = tl.fma(tl.broadcast_to(b, (_ROWS, _COLS)), tl.broadcast_to(a, (_ROWS, _COLS)), sums)
    # A weight may have more than 2^31 entries.
    wide_row = row.to(tl.int64)
    weights = tl.load(W + wide_row * W_stride + col, mask=inside, other=0.0)
    merged = tl.where(weights.to(BITS, bitcast=True) == SIGN, 0.0, sums + weights.to(tl.float32))
    # Rounded to nearest even.
    tl.store(out + wide_row * out_stride + col, merged.to(W.dtype.element_ty), mask=inside)


@triton.jit
def _gradients_part(G, W, rows, cols, G_stride, W_stride, A, B, dA, dB, rank, SIGN: tl.constexpr, RANKS: tl.constexpr):
    """Write B^T (G * M) and (G * M) A^T of _TILES tiles of G, one below the other, to their places in dA (parts, rank,
    cols) and dB (parts, rows, rank)."""
    DTYPE = G.dtype.element_ty
    col = tl.program_id(1) * _TILE_COLS + tl.arange(0, _TILE_COLS)
    k = tl.program_id(2) * RANKS + tl.arange(0, RANKS)
    is_col = col < cols
    is_rank = k < rank
    at_A = k[:, None] * cols + col[None, :]
    in_A = is_rank[:, None] & is_col[None, :]
    a = tl.load(A + at_A, mask=in_A, other=0.0).to(DTYPE)
    sums = tl.full((RANKS, _TILE_COLS), 0.0, tl.float32)
    for step in range(_TILES):
        row = (tl.program_id(0) * _TILES + step) * _TILE_ROWS + tl.arange(0, _TILE_ROWS)
        is_row = row < rows
        inside = is_row[:, None] & is_col[None, :]
        # A weight may have more than 2^31 entries.
        wide_row = row.to(tl.int64)[:, None]
        bits = tl.load(W + wide_row * W_stride + col[None, :], mask=inside, other=SIGN)
        g = tl.load(G + wide_row * G_stride + col[None, :], mask=inside, other=0.0)
        g = tl.where(bits == SIGN, 0.0, g)
        at_B = row[:, None] * rank + k[None, :]
        in_B = is_row[:, None] & is_rank[None, :]
        b = tl.load(B + at_B, mask=in_B, other=0.0).to(DTYPE)
        sums = tl.dot(tl.trans(b), g, sums)
        row_sums = tl.dot(g, tl.trans(a))
        tl.store(dB + tl.program_id(1).to(tl.int64) * rows * rank + at_B, row_sums, mask=in_B)
    tl.store(dA + tl.program_id(0).to(tl.int64) * rank * cols + at_A, sums, mask=in_A)
