"""64 weights at a time: comparisons of float magnitudes that give a word of 64 bits, and what is done with such words.

Numba vectorises loops, but does not turn a comparison of lanes into a mask register; these intrinsics are the few lines of
LLVM that do. They take addresses, not arrays: numba counts the references to an array in every call, atomically.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LANES = 64
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_WORD = ir.IntType(LANES)


def _compare(predicate: str):
    """An intrinsic: bit i is set where the magnitude of the weight i behind `address` is `predicate` the threshold."""

    @intrinsic
    def compare(_, address, threshold):
        width = threshold.bitwidth

        def build(context, builder, signature, arguments):
            vector = ir.VectorType(ir.IntType(width), LANES)
            sizes = builder.and_(
                _load(builder, arguments[0], vector), ir.Constant(vector, [2 ** (width - 1) - 1] * LANES)
            )
            first = builder.insert_element(
                ir.Constant(vector, ir.Undefined), arguments[1], ir.Constant(ir.IntType(32), 0)
            )
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            flags = builder.icmp_unsigned(predicate, sizes, builder.shuffle_vector(first, first, everywhere))
            return builder.bitcast(flags, _WORD)

        return types.uint64(types.uint64, threshold), build

    return compare


at_least, equal = _compare(">="), _compare("==")


@intrinsic
def less(_, address, other, zero):
    """Bit i is set where the magnitude of the weight i behind `address` is below that behind `other`; 0 of their type."""

    def build(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(zero.bitwidth), LANES)
        mask = ir.Constant(vector, [2 ** (zero.bitwidth - 1) - 1] * LANES)
        first, second = (builder.and_(_load(builder, place, vector), mask) for place in arguments[:2])
        return builder.bitcast(builder.icmp_unsigned("<", first, second), _WORD)

    return types.uint64(types.uint64, types.uint64, zero), build


@intrinsic
def zero_lanes(_, address, keep, zero):
    """Put `zero`, 0 of the weights' type, where the bit of `keep` is 0, in the 64 weights behind `address`."""

    def build(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(zero.bitwidth), LANES)
        flags = builder.bitcast(arguments[1], ir.VectorType(ir.IntType(1), LANES))
        kept = builder.select(flags, _load(builder, arguments[0], vector), ir.Constant(vector, [0] * LANES))
        builder.store(kept, builder.inttoptr(arguments[0], vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, zero), build


@intrinsic
def load64(_, address):
    """The eight bytes behind `address` as a little-endian word."""
    return types.uint64(types.uint64), lambda context, builder, signature, arguments: _load(
        builder, arguments[0], _WORD
    )


@intrinsic
def store64(_, address, word):
    """The inverse of `load64`."""

    def build(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], _WORD.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), build


@intrinsic
def popcount(_, word):
    return types.int64(types.uint64), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])


def _load(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


@njit(inline="always")
def address(values, i):
    return values.ctypes.data + i * values.itemsize


@njit(nogil=True, cache=True)
def first(number):
    """A word with the lowest `number` < 64 bits set."""
    return (np.uint64(1) << np.uint64(number)) - np.uint64(1)


@njit(nogil=True, cache=True)
def cut(keep, equal, ties):
    """Clear the first `ties` bits of `equal` in `keep`; returns it and the ties that are left."""
    number = popcount(equal)
    if number <= ties:
        return keep & ~equal, ties - number
    while ties > 0:
        lowest = equal & (~equal + np.uint64(1))
        equal, keep, ties = equal ^ lowest, keep ^ lowest, ties - 1
    return keep, ties
