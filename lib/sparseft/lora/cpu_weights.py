"""Build the effective weight on a CPU, (W + B A) * M, in compiled loops with one pass over W.

    W   (rows, cols)   bf16, fp16 or fp32; the loops read the bits of bf16 or fp32, uint16 or uint32
    A   (r, cols)      fp32
    B   (rows, r)      fp32, which holds s B

W carries its mask, as carried_mask.py says: the bits of -0.0 mark what is pruned. The rows are divided among torch's threads,
and no weight depends on the division. 128 weights stay in registers during the sum over the ranks. numba does not arrange
that, so the intrinsic is the few lines of LLVM that do.

All loops are in one file, because numba's cache of compiled code notices an edit only in a function's own file.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from sparseft.lora.carried_mask import row_blocks
from sparseft.storage.compiled import compiled

# Columns and rows of the weights whose sums are computed at a time. A's values are loaded once for all rows. Four rows are
# needed, because a sum waits for its own last step, and the others fill that time.
LANES = 32
ROWS = 4
# Columns at a time. Their part of A, 16 KB per rank, stays in the cache for all rows.
TILE = 128 * LANES
_WORD = ir.IntType(64)
_LANE = ir.IntType(32)
_FLOAT = ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, LANES)


def build(out: Tensor, W: Tensor, A: Tensor, B: Tensor) -> None:
    """Write (W + B A) * M to `out`, as effective_weight.py defines it.

    W and out (rows, cols) are bf16, fp16 or fp32. A (r, cols) and B (rows, r), which holds s B, are fp32."""
    if W.dtype == torch.float16:
        # The compiled loop does not read fp16: compute in fp32, where -0.0 stays -0.0, and round as the last step.
        for rows in row_blocks(W):
            block = W[rows].float()
            build(block, block, A, B[rows])
            out[rows] = block
        return
    weights = _words(W)
    merged = _words(out)
    a = A.detach().contiguous().numpy()
    b = B.detach().contiguous().numpy()
    threads = min(len(weights), torch.get_num_threads())
    # Rounded up, so that there are at most as many parts as threads.
    step = (len(weights) + threads - 1) // threads

    def merge(start: int) -> None:
        rows = slice(start, start + step)
        merge_rows(weights[rows], a, b[rows], merged[rows])

    each = map if threads == 1 else _pool(threads).map
    # The loop reads the results, because an error in a thread would be lost otherwise.
    for _ in each(merge, range(0, len(weights), step)):
        pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool of threads. It is started once per process."""
    return ThreadPoolExecutor(threads)


def _words(weight: Tensor) -> np.ndarray:
    """Return the bits of a weight on the CPU as unsigned integers (rows, cols), in the weight's own memory.

    They must not be used after the weight is freed. Use the address, because tensor.numpy() would stop FSDP from freeing the
    tensor."""
    rows, cols = weight.shape
    row_step = weight.stride()[0]
    size = weight.element_size()
    memory = (ctypes.c_char * (((rows - 1) * row_step + cols) * size)).from_address(weight.data_ptr())
    words = np.frombuffer(memory, f"u{size}")
    return np.lib.stride_tricks.as_strided(words, (rows, cols), (row_step * size, size))


@compiled
def merge_rows(W, A, B, out):
    """Write (W + B A) * M to `out`.

    Each step of the sum is llvm.fma, a fused multiply-add. The compiler
    has no choice there: on a processor without that instruction it calls the C library, which is slow and as exact.

    W and out are uint16 (rows, cols), the bits of bf16, or uint32, those of fp32. A is fp32 (r, cols). B is fp32 (rows, r)
    and holds s B. A pruned weight becomes +0.0."""
    rows, cols = W.shape
    full_cols = cols // LANES * LANES
    full_rows = rows // ROWS * ROWS
    for begin in range(0, full_cols, TILE):
        end = min(begin + TILE, full_cols)
        for row in range(0, full_rows, ROWS):
            merge_row_block(W, A, B, out, row, begin, end, 1)
        for row in range(full_rows, rows):
            merge_row_block(W, A, B, out, row, begin, end, 0)
    if full_cols < cols:
        merge_last_columns(W, A, B, out, full_cols)


@njit(inline="always")
def merge_row_block(W, A, B, out, row, begin, end, row_step):
    """Do as `merge_rows` for ROWS rows from `row` on, and the columns from `begin` to `end`, a multiple of LANES.

    `row_step` is 1. With 0, all rows are the first one, because fewer than ROWS rows are left."""
    one = W.dtype.type(1)
    steps = (row_step * W.strides[0], row_step * B.strides[0], row_step * out.strides[0])
    for col in range(begin, end, LANES):
        addresses = (at(W, row, col), at(B, row, 0), at(out, row, col))
        merge_lanes(addresses, steps, at(A, 0, col), A.strides[0], A.shape[0], one)


@njit(inline="always")
def merge_last_columns(W, A, B, out, first):
    """Do as `merge_rows` for the columns from `first` on. They are fewer than LANES, so they are copied into arrays of LANES."""
    cols = W.shape[1] - first
    w = np.zeros((1, LANES), W.dtype)
    a = np.zeros((A.shape[0], LANES), A.dtype)
    o = np.zeros((1, LANES), W.dtype)
    a[:, :cols] = A[:, first:]
    for row in range(W.shape[0]):
        w[0, :cols] = W[row, first:]
        merge_row_block(w, a, B[row : row + 1], o, 0, 0, LANES, 0)
        out[row, first:] = o[0, :cols]


@njit(inline="always")
def at(matrix, row, col):
    """Return the address of an entry. There may be a gap between rows, but none between columns."""
    return matrix.ctypes.data + row * matrix.strides[0] + col * matrix.itemsize


@intrinsic
def merge_lanes(_, addresses, steps, A, A_step, rank, one):
    """Do as `merge_rows` for LANES columns of ROWS rows.

    addresses, steps: of W, B and out, the address of the first row, and the bytes from one row to the next; all are integers
    A, A_step: the same of A, whose rows are the ranks
    one: a number that has the type of the weights"""

    def build(context, builder, signature, arguments):
        addresses, steps, A, A_step, rank, _ = arguments
        # The addresses of ROWS rows of each of the three matrices.
        W, B, out = (
            [
                builder.add(
                    builder.extract_value(addresses, place),
                    builder.mul(builder.extract_value(steps, place), _WORD(row)),
                )
                for row in range(ROWS)
            ]
            for place in range(3)
        )
        stored = ir.VectorType(ir.IntType(one.bitwidth), LANES)
        products = _sums_over_ranks(builder, A, A_step, B, rank)
        merged = [_masked_sum(builder, *pair, stored) for pair in zip(W, products, strict=True)]
        # All rows are stored after all are loaded, because they may be the same row.
        for row, place in zip(merged, out, strict=True):
            builder.store(row, _pointer(builder, place, stored), align=1)
        return context.get_dummy_value()

    three = types.UniTuple(types.int64, 3)
    return types.void(three, three, types.int64, types.int64, types.int64, one), build


def _sums_over_ranks(builder, A, A_step, B, rank):
    """Build the loop over the ranks. Return, for each row, the sums of B[k] * A[k], which start at 0."""
    before = builder.block
    loop = builder.append_basic_block()
    after = builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_WORD)
    sums = [builder.phi(_FLOATS) for _ in B]
    lanes = builder.load(_pointer(builder, builder.add(A, builder.mul(k, A_step)), _FLOATS), align=4)
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    totals = []
    for row, total in zip(B, sums, strict=True):
        factor = builder.load(_pointer(builder, builder.add(row, builder.shl(k, _WORD(2))), _FLOAT), align=4)
        first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), factor, _LANE(0))
        factors = builder.shuffle_vector(first, first, _all(ir.VectorType(_LANE, LANES), 0))
        totals.append(builder.call(multiply_add, [factors, lanes, total]))
    following = builder.add(k, _WORD(1))
    k.add_incoming(_WORD(0), before)
    k.add_incoming(following, loop)
    for phi, total in zip(sums, totals, strict=True):
        phi.add_incoming(_all(_FLOATS, 0.0), before)
        phi.add_incoming(total, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, rank), loop, after)
    builder.position_at_end(after)
    return totals


def _masked_sum(builder, W, product, stored):
    """Build (W + product) * M of the weights at address W, as bits of the type `stored`."""
    bits = builder.load(_pointer(builder, W, stored), align=1)
    total = builder.fadd(_widen(builder, bits), product)
    kept = builder.icmp_unsigned("!=", bits, _all(stored, 1 << stored.element.width - 1))
    return builder.select(kept, _round(builder, total, stored), _all(stored, 0))


def _widen(builder, bits):
    """Build the conversion of the bits of bf16 or fp32 to fp32."""
    wide = ir.VectorType(_LANE, LANES)
    if bits.type.element.width == 16:
        bits = builder.shl(builder.zext(bits, wide), _all(wide, 16))
    return builder.bitcast(bits, _FLOATS)


def _round(builder, floats, stored):
    """Build the inverse of `_widen`. It rounds to nearest even."""
    wide = ir.VectorType(_LANE, LANES)
    bits = builder.bitcast(floats, wide)
    if stored.element.width == 32:
        return bits
    odd = builder.and_(builder.lshr(bits, _all(wide, 16)), _all(wide, 1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _all(wide, 0x7FFF))), _all(wide, 16))
    # The addition would turn a NaN whose bits are all set into -0.0.
    is_number = builder.fcmp_ordered("ord", floats, floats)
    return builder.trunc(builder.select(is_number, rounded, _all(wide, 0x7FC0)), stored)


def _all(vector, number):
    """Return a constant of a vector type whose lanes are all `number`."""
    return ir.Constant(vector, [number] * LANES)


def _pointer(builder, address, kind):
    """Build the pointer to a value of type `kind` at an address."""
    return builder.inttoptr(address, kind.as_pointer())
