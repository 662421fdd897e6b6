"""Compiled loops over raw float bits: count magnitudes, write packed masks, use them.

Magnitudes of floats order like their bits without the sign: 32,768 values for BF16 and F16, so that one histogram holds
the threshold t of every sparsity. 32-bit magnitudes take two digits: the high 16 bits, then the low 15 of the bins that
were hit. Of the weights that equal t, the first `ties` in flat order are pruned:

    keep  <=>  m > t  or  (m == t and `ties` equal weights went before)

which is what a stable ascending sort would prune, without the sort. 64 weights are compared at a time, and their 64 bits
stored at once: numba does not turn a comparison of lanes into a mask register, the intrinsics at the end are the few lines
of LLVM that do. They take addresses, not arrays, whose references numba counts in every call, atomically.
Every function releases the GIL, so that threads run side by side. All in one file: numba's cache of compiled code knows
an edit of a function's own file alone.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from sparseft.storage.compiled import compiled

LANES = 64  # weights a comparison
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
BINS = 1 << 16  # values of the high digit: all 15 bits of a 16-bit magnitude, the high 16 of a 32-bit one
LOW = 1 << 15  # values of the low digit of a 32-bit magnitude
SEGMENT = 32 * LANES  # weights that stay in the first cache, beside the next, while the levels take turns
AHEAD = 2048  # bytes between a use and the prefetch for one to come; a quarter to two thirds of the time saved
_WORD = ir.IntType(LANES)


@compiled
def count_high(values, counts):
    """Add the magnitudes of `values`, uint16 or uint32 (n,), to `counts`, int32 (BINS,), by their high digit."""
    shift, mask, zero = _shift(values), _digit(values), values.dtype.type(0)
    width, full = np.uint64(bitwidth(zero)), values.size // LANES * LANES
    for start in range(0, full, LANES):
        weights = place(values, start)
        prefetch(weights + AHEAD, zero)
        for offset in range(0, LANES * width // 8, 8):  # a load for several weights: a tenth faster
            word = load64(weights + offset)
            for bit in range(np.uint64(0), np.uint64(64), width):
                counts[word >> (bit + shift) & mask] += np.int32(1)
    for value in values[full:]:
        counts[value >> shift & mask] += np.int32(1)


@compiled
def count_low(values, slots, counts):
    """Add uint32 `values` by their low digit to `counts`, int (S, LOW), in row slots[high digit], int8, where that is >= 0."""
    shift, mask = _shift(values), _digit(values)
    for value in values:
        slot = slots[value >> shift & mask]
        if slot >= 0:
            counts[slot, value & np.uint64(LOW - 1)] += 1


@compiled
def write_masks(values, cols, thresholds, ties, packed):
    """Pack the masks of `values`, uint16 or uint32 (rows * cols,), for every level.

    thresholds: values' dtype (levels,); ties: int64 (levels,), how many weights equal to the threshold are still to be
    pruned, counted down; packed: uint8 (levels, rows * ceil(cols / 8)), filled."""
    spare = np.zeros(LANES, values.dtype)
    for row in range(values.size // cols):
        _write_row(values, row * cols, cols, thresholds, ties, packed, row * -(-cols // 8), spare)


@compiled
def write_row_masks(values, cols, counts, packed):
    """As `write_masks`, with every row ranked by itself: level j prunes counts[j] weights of each; counts ascend."""
    thresholds, ties = np.zeros(counts.size, values.dtype), np.zeros(counts.size, np.int64)
    bins, spare = np.zeros(BINS, np.int32), np.zeros(LANES, values.dtype)
    for row in range(values.size // cols):
        _rank(values[row * cols : (row + 1) * cols], counts, bins, thresholds, ties)
        _write_row(values, row * cols, cols, thresholds, ties, packed, row * -(-cols // 8), spare)


@compiled
def write_group_masks(values, cols, group, counts, packed):
    """N:M masks: of every `group` <= 64 weights in a row, level j prunes the counts[j] lowest; `group` divides cols.

    Groups that fit into 64 weights are ranked at once: a weight's rank is how many of its group go before it, kept as
    binary digits in `planes`, a word a digit. Weights at distance d are compared for every d < group."""
    width = LANES // group * group
    row_bytes, padded = -(-cols // 8), np.zeros(cols + 2 * LANES, values.dtype)
    planes, bits = np.zeros(6, np.uint64), np.zeros((counts.size, row_bytes + 16), np.uint8)
    for row in range(values.size // cols):
        padded[:cols] = values[row * cols : (row + 1) * cols]
        bits[:] = 0
        for col in range(0, cols, width):
            _rank_groups(padded, col, group, width, planes)
            valid = ALL if min(width, cols - col) == LANES else lowest_bits(min(width, cols - col))
            for j in range(counts.size):
                out, keep = bits.ctypes.data + j * bits.shape[1] + col // 8, _rank_reaches(planes, counts[j]) & valid
                store64(out, load64(out) | keep << np.uint64(col % 8))
                if col % 8:
                    store64(out + 8, keep >> np.uint64(64 - col % 8))
        packed[:, row * row_bytes : (row + 1) * row_bytes] = bits[:, :row_bytes]


@compiled
def _rank_groups(padded, col, group, width, planes):
    """The ranks of the `width` weights from padded[col] on, in `planes`."""
    planes[:] = 0
    zero = padded.dtype.type(0)
    for distance in range(1, group):
        pairs = np.uint64(0)  # the weights that have a neighbour at this distance in their group
        for start in range(0, width, group):
            pairs |= lowest_bits(group - distance) << np.uint64(start)
        lower = less(place(padded, col + distance), place(padded, col), zero)
        _add(planes, lower & pairs)
        _add(planes, (~lower & pairs) << np.uint64(distance))


@compiled
def _add(planes, word):
    """Add 1 to the numbers of which `word` has the bit."""
    digit = 0
    while word:
        planes[digit], word = planes[digit] ^ word, planes[digit] & word
        digit += 1


@compiled
def _rank_reaches(planes, count):
    """The bits of the numbers that are at least `count` < 64."""
    above, same = np.uint64(0), ALL
    for digit in range(planes.size - 1, -1, -1):
        if count >> digit & 1:
            same &= planes[digit]
        else:
            above |= same & planes[digit]
            same &= ~planes[digit]
    return above | same


@compiled
def zero_pruned(values, cols, packed):
    """values * M in place: +0.0 where the bit of `packed`, uint8 (rows * ceil(cols / 8),), is 0."""
    row_bytes, full, zero = -(-cols // 8), cols // LANES * LANES, values.dtype.type(0)
    for row in range(values.size // cols):
        bits = packed.ctypes.data + row * row_bytes
        for col in range(0, full, LANES):
            weights = place(values, row * cols + col)
            prefetch(weights + AHEAD, zero)
            zero_lanes(weights, load64(bits + col // 8), zero)
        for col in range(full, cols):
            if not packed[row * row_bytes + col // 8] >> col % 8 & 1:
                values[row * cols + col] = 0


@compiled
def survey(values, cols, packed, limit):
    """Compare weights with their mask. Return four int64: the number of zeros, of kept zeros and of pruned magnitudes >=
    `limit`, and the largest pruned magnitude, below the limit or not.

    `limit` and the magnitude are bits of values' dtype; a limit of 1 asks for exact zeros."""
    found, row_bytes, one = np.zeros(3, np.int64), -(-cols // 8), values.dtype.type(1)
    spare, bits, largest = np.zeros(LANES, values.dtype), np.zeros(8, np.uint8), 0  # for what is left of a row
    full, rest = cols // LANES * LANES, cols % LANES
    for row in range(values.size // cols):
        start = row * cols
        for i in range(start, start + full, LANES):
            word = load64(packed.ctypes.data + row * row_bytes + (i - start) // 8)
            prefetch(place(values, i) + AHEAD, one)
            unpruned = _survey(place(values, i), word, ALL, limit, one, found)
            if unpruned:
                largest = _largest(values[i : i + LANES], unpruned, largest)
        if rest:
            spare[:rest] = values[start + full : start + cols]
            bits[: row_bytes - full // 8] = packed[row * row_bytes + full // 8 : (row + 1) * row_bytes]
            unpruned = _survey(spare.ctypes.data, load64(bits.ctypes.data), lowest_bits(rest), limit, one, found)
            largest = _largest(spare, unpruned, largest)
    return found[0], found[1], found[2], largest


@compiled
def count_ones(packed):
    """The ones of each row of uint8 (levels, n), int64 (levels,)."""
    ones = np.zeros(packed.shape[0], np.int64)
    full = packed.shape[1] // 8 * 8
    for level in range(packed.shape[0]):
        row = packed.ctypes.data + level * packed.shape[1]
        for i in range(0, full, 8):
            ones[level] += popcount(load64(row + i))
        for byte in packed[level, full:]:
            ones[level] += popcount(byte)
    return ones


@njit(inline="always")
def _write_row(values, start, cols, thresholds, ties, packed, at, spare):
    """The masks of values[start : start + cols], to the bytes of `packed` from `at` on; `spare` (LANES,) is scratch."""
    row_bytes, full, levels, parts = -(-cols // 8), cols // LANES * LANES, thresholds.size, SEGMENT // LANES
    spare[: cols - full] = values[start + full : start + cols]
    valid, zero = lowest_bits(cols - full), values.dtype.type(0)
    for begin in range(0, cols, SEGMENT):
        for j in range(levels):
            threshold, left, col, stop = thresholds[j], ties[j], begin, min(begin + SEGMENT, full)
            out = packed.ctypes.data + j * packed.shape[1] + at
            for part in range(
                j * parts // levels, (j + 1) * parts // levels
            ):  # of the next segment, while this is used
                prefetch(place(values, start + begin + SEGMENT + part * LANES), zero)
            while left > 0 and col < stop:
                weights = place(values, start + col)
                keep, left = drop_ties(at_least(weights, threshold), equal(weights, threshold), left)
                store64(out + col // 8, keep)
                col += LANES
            for after in range(col, stop, LANES):  # a loop without a branch: a fifth faster
                store64(out + after // 8, at_least(place(values, start + after), threshold))
            if begin + SEGMENT >= cols and valid:
                keep = at_least(spare.ctypes.data, threshold) & valid
                if left > 0:
                    keep, left = drop_ties(keep, equal(spare.ctypes.data, threshold) & valid, left)
                for byte in range(full // 8, row_bytes):
                    packed[j, at + byte] = keep & np.uint64(0xFF)
                    keep >>= np.uint64(8)
            ties[j] = left


@compiled
def _rank(row, counts, bins, thresholds, ties):
    """Thresholds and ties of one row; `bins`, int32 (BINS,), is zero before and after."""
    shift, level, seen = _shift(row), 0, 0
    low, high = _count_row(row, bins)
    for first in range(low // LANES * LANES, high + 1, LANES):
        start, stop, total = np.uint64(first), np.uint64(first + LANES), np.int32(0)
        for i in range(start, stop):
            total += bins[i]
        if level < counts.size and seen + total >= counts[level]:
            before = seen
            for i in range(start, stop):
                while level < counts.size and before + bins[i] >= counts[level]:
                    thresholds[level], ties[level] = i << shift, counts[level] - before
                    level += 1
                before += bins[i]
        for i in range(start, stop):
            bins[i] = 0
        seen += total
    if shift:
        lows = np.zeros(row.size, np.uint32)
        for level in range(counts.size):
            _rank_low(row, thresholds, ties, level, lows)


@compiled
def _count_row(row, bins):
    """Count a row by its high digit; returns the lowest and the highest digit."""
    shift, low, high = _shift(row), np.int32(BINS), np.int32(0)
    mask = _digit(row)
    for value in row:
        bins[value >> shift & mask] += np.int32(1)
    for i in range(row.size):  # int32 and no call of min: so it becomes vector code
        digit = np.int32(row[i] >> shift & mask)
        low = low if low < digit else digit
        high = high if high > digit else digit
    return low, high


@compiled
def _rank_low(row, thresholds, ties, level, lows):
    """Refine a threshold that has its high digit by the low digits of the weights that share it, few of a row.

    `lows`: uint32, of the row's size, is scratch."""
    if ties[level] == 0:
        return
    shift, mask, found = _shift(row), _digit(row), np.uint64(0)
    digit = thresholds[level] >> shift & mask
    for value in row:
        if value >> shift & mask == digit:
            lows[found] = value & np.uint64(LOW - 1)
            found += np.uint64(1)
    shared = np.sort(lows[:found])
    low = shared[ties[level] - 1]
    thresholds[level] += low
    ties[level] -= np.searchsorted(shared, low)


@njit(inline="always")
def _shift(values):
    """How many bits of a magnitude lie under its high digit. Unsigned, or numba would test every index for a sign."""
    return np.uint64(0 if bitwidth(values.dtype.type(0)) == 16 else 15)


@njit(inline="always")
def _digit(values):
    """The bits of a high digit."""
    return np.uint64(0x7FFF if bitwidth(values.dtype.type(0)) == 16 else 0xFFFF)


@njit(inline="always")
def _survey(weights, keep, valid, limit, one, found):
    """Add the counts of the 64 weights behind an address to `found`, of those in `valid` only.

    Return the bits of the pruned weights that are not zero."""
    nonzero = at_least(weights, one) & valid
    zero = ~nonzero & valid
    unpruned = nonzero & ~keep
    found[0] += popcount(zero)
    found[1] += popcount(zero & keep)
    found[2] += popcount(at_least(weights, limit) & unpruned)
    return unpruned


@compiled
def _largest(weights, chosen, largest):
    """Return the largest magnitude, in bits, of those of 64 `weights` whose bit is set in `chosen`, or `largest` if larger."""
    sign = np.uint64(bitwidth(weights.dtype.type(0)) - 1)
    for i in range(weights.size):
        if chosen >> np.uint64(i) & np.uint64(1):
            largest = max(largest, np.int64(weights[i] & ((np.uint64(1) << sign) - np.uint64(1))))
    return largest


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
def bitwidth(_, number):
    """A constant to the compiler, which an array's itemsize is not."""
    return types.int64(number), lambda context, *_: context.get_constant(types.int64, number.bitwidth)


@intrinsic
def prefetch(_, address, zero):
    """Fetch the 64 weights behind `address`, any address, for writing; `zero` is 0 of their type."""

    def build(context, builder, signature, arguments):
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        options = [ir.Constant(number, option) for option in (1, 3, 1)]  # to write, into every cache, data
        for offset in range(0, LANES * zero.bitwidth // 8, 64):  # bytes of a cache line
            line = builder.add(arguments[0], ir.Constant(_WORD, offset))
            builder.call(function, [builder.inttoptr(line, pointer), *options])
        return context.get_dummy_value()

    return types.void(types.uint64, zero), build


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
def place(values, i):
    return values.ctypes.data + i * (bitwidth(values.dtype.type(0)) // 8)


@compiled
def lowest_bits(number):
    """A word with the lowest `number` < 64 bits set."""
    return (np.uint64(1) << np.uint64(number)) - np.uint64(1)


@compiled
def drop_ties(keep, equal, ties):
    """Clear the first `ties` bits of `equal` in `keep`; returns it and the ties that are left."""
    number = popcount(equal)
    if number <= ties:
        return keep & ~equal, ties - number
    while ties > 0:
        lowest = equal & (~equal + np.uint64(1))
        equal, keep, ties = equal ^ lowest, keep ^ lowest, ties - 1
    return keep, ties
