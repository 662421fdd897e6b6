"""Build the effective weight and mask a gradient on a CPU, in compiled loops with one pass over W:

    merged = (W + B A) * M      merge_rows, where B holds s B
    values = values * M         mask_rows

    W   (rows, cols)   uint16 or uint32, the bits of bf16 or fp32
    A   (r, cols)      fp32
    B   (rows, r)      fp32

W carries its mask, as carried_mask.py says: the bits of -0.0 mark what is pruned. 64 weights stay in registers during
the sum over the ranks. numba does not arrange that, so the intrinsic is the few lines of LLVM that do.

Every function releases the GIL. All functions are in one file, because numba's cache of compiled code notices an edit only
in a function's own file.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from sparseft.storage.compiled import compiled

# Weights at a time.
LANES = 64
# Columns at a time. Their part of A, 4 KB per rank, stays in the cache for all rows.
TILE = 16 * LANES
_WORD = ir.IntType(64)
_LANE = ir.IntType(32)
_FLOAT = ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, LANES)


@compiled
def merge_rows(W, A, B, out):
    """Write (W + B A) * M to `out`.

    effective_weight.py defines the order of the steps. Each step of the sum is llvm.fma, a fused multiply-add. The compiler
    has no choice there: on a processor without that instruction it calls the C library, which is slow and as exact.

    W and out are uint16 (rows, cols), the bits of bf16, or uint32, those of fp32. A is fp32 (r, cols). B is fp32 (rows, r)
    and holds s B. A pruned weight becomes +0.0."""
    rows, cols = W.shape
    rank = A.shape[0]
    one = W.dtype.type(1)
    full = cols // LANES * LANES
    partial = cols % LANES
    for begin in range(0, full, TILE):
        for row in range(rows):
            for col in range(begin, min(begin + TILE, full), LANES):
                merge_lanes(at(W, row, col), at(A, 0, col), A.strides[0], at(B, row, 0), rank, at(out, row, col), one)
    # The last columns are fewer than 64. They are copied into arrays of 64.
    if partial:
        w = np.zeros((1, LANES), W.dtype)
        a = np.zeros((rank, LANES), A.dtype)
        o = np.zeros((1, LANES), W.dtype)
        a[:, :partial] = A[:, full:]
        for row in range(rows):
            w[0, :partial] = W[row, full:]
            merge_lanes(at(w, 0, 0), at(a, 0, 0), a.strides[0], at(B, row, 0), rank, at(o, 0, 0), one)
            out[row, full:] = o[0, :partial]


@compiled
def mask_rows(values, W, sign):
    """Compute values * M in place: +0 where W is `sign`, the bits of -0.0.

    values and W are unsigned integers of one width, (rows, cols)."""
    zero = values.dtype.type(0)
    for row in range(values.shape[0]):
        for col in range(values.shape[1]):
            values[row, col] = zero if W[row, col] == sign else values[row, col]


@njit(inline="always")
def at(matrix, row, col):
    """Return the address of an entry. There may be a gap between rows, but none between columns."""
    return matrix.ctypes.data + row * matrix.strides[0] + col * matrix.itemsize


@intrinsic
def merge_lanes(_, weights, A, stride, B, rank, out, one):
    """Do as `merge_rows` for the 64 weights at an address.

    The rows of A are `stride` bytes apart. `one` has the type of the weights."""

    def build(context, builder, signature, arguments):
        weights, A, stride, B, rank, out, _ = arguments
        stored = ir.VectorType(ir.IntType(one.bitwidth), LANES)
        product = _sum_over_ranks(builder, A, stride, B, rank)
        bits = builder.load(_pointer(builder, weights, stored), align=1)
        total = builder.fadd(_widen(builder, bits), product)
        kept = builder.icmp_unsigned("!=", bits, _all(stored, 1 << one.bitwidth - 1))
        merged = builder.select(kept, _round(builder, total, stored), _all(stored, 0))
        builder.store(merged, _pointer(builder, out, stored), align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.int64, types.uint64, types.int64, types.uint64, one), build


def _sum_over_ranks(builder, A, stride, B, rank):
    """Build the loop over the ranks. Return the 64 sums of B[k] * A[k], which start at 0."""
    before = builder.block
    loop = builder.append_basic_block()
    after = builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_WORD)
    sums = builder.phi(_FLOATS)
    row = builder.load(_pointer(builder, builder.add(A, builder.mul(k, stride)), _FLOATS), align=4)
    factor = builder.load(_pointer(builder, builder.add(B, builder.shl(k, _WORD(2))), _FLOAT), align=4)
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    total = builder.call(multiply_add, [_everywhere(builder, factor), row, sums])
    following = builder.add(k, _WORD(1))
    k.add_incoming(_WORD(0), before)
    k.add_incoming(following, loop)
    sums.add_incoming(_all(_FLOATS, 0.0), before)
    sums.add_incoming(total, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, rank), loop, after)
    builder.position_at_end(after)
    return total


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


def _everywhere(builder, number):
    """Build a vector whose 64 lanes are all `number`."""
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), number, _LANE(0))
    return builder.shuffle_vector(first, first, _all(ir.VectorType(_LANE, LANES), 0))


def _all(vector, number):
    """Return a constant of a vector type whose lanes are all `number`."""
    return ir.Constant(vector, [number] * LANES)


def _pointer(builder, address, kind):
    """Build the pointer to a value of type `kind` at an address."""
    return builder.inttoptr(address, kind.as_pointer())
