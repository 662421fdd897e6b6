"""Count magnitudes, write packed masks and use them: compiled loops over the raw bits of floats.

The magnitudes of floats order like their bits without the sign. BF16 and F16 have 32,768 magnitudes, so one histogram holds
the threshold t of every sparsity. A 32-bit magnitude has two digits: the high 16 bits, and the low 15 bits. The low digits
are counted only in the bins that hold a threshold. Of the weights that equal t, the first `ties` in flat order are pruned:

    keep  <=>  m > t  or  (m == t and at least `ties` equal weights come before)

A stable ascending sort would prune the same weights, but nothing is sorted here. 64 weights are compared at a time, and
their 64 bits are stored at once. numba does not turn such a comparison into a mask register. The intrinsics at the end of
this file are the few lines of LLVM that do. They take addresses, because numba counts the references of arrays in every
call, atomically.

Every function releases the GIL, so that threads run side by side. All functions are in one file, because numba's cache of
compiled code notices an edit only in a function's own file.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from sparseft.storage.compiled import compiled

# Weights per comparison.
LANES = 64
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
# Values of the high digit: all 15 bits of a 16-bit magnitude, the high 16 bits of a 32-bit one.
BINS = 1 << 16
# Values of the low digit of a 32-bit magnitude.
LOW = 1 << 15
# Weights that all levels read in turn. This segment and the next one fit into the first cache together.
SEGMENT = 32 * LANES
# Bytes between a load and the prefetch for a later one. Prefetching saves a quarter to two thirds of the time.
AHEAD = 2048
_WORD = ir.IntType(LANES)


@compiled
def count_high(values, counts):
    """Add the magnitudes of `values`, uint16 or uint32 (n,), to `counts`, int32 (BINS,), by their high digit."""
    shift = _shift(values)
    mask = _digit(values)
    zero = values.dtype.type(0)
    width = np.uint64(bitwidth(zero))
    full = values.size // LANES * LANES
    for start in range(0, full, LANES):
        weights = place(values, start)
        prefetch(weights + AHEAD, zero)
        # One load for several weights is a tenth faster.
        for offset in range(0, LANES * width // 8, 8):
            word = load64(weights + offset)
            for bit in range(np.uint64(0), np.uint64(64), width):
                counts[word >> (bit + shift) & mask] += np.int32(1)
    for value in values[full:]:
        counts[value >> shift & mask] += np.int32(1)


@compiled
def count_low(values, slots, counts):
    """Add the magnitudes of uint32 `values` to `counts`, int (S, LOW), by their low digit.

    slots: int8 (BINS,), the row of `counts` for a high digit. A magnitude with a negative slot is not counted."""
    shift = _shift(values)
    mask = _digit(values)
    for value in values:
        slot = slots[value >> shift & mask]
        if slot >= 0:
            counts[slot, value & np.uint64(LOW - 1)] += 1


@compiled
def write_masks(values, cols, thresholds, ties, packed):
    """Pack the masks of `values`, uint16 or uint32 (rows * cols,), for every level.

    thresholds: (levels,), in the dtype of `values`
    ties: int64 (levels,), how many weights equal to the threshold must still be pruned; it is counted down
    packed: uint8 (levels, rows * ceil(cols / 8)), which is filled"""
    row_bytes = (cols + 7) // 8
    spare = np.zeros(LANES, values.dtype)
    for row in range(values.size // cols):
        _write_row(values, row * cols, cols, thresholds, ties, packed, row * row_bytes, spare)


@compiled
def write_row_masks(values, cols, counts, packed):
    """Do as `write_masks`, but rank every row by itself.

    counts: int64 (rows, levels), how many weights of each row each level prunes; they ascend in every row"""
    row_bytes = (cols + 7) // 8
    thresholds = np.zeros(counts.shape[1], values.dtype)
    ties = np.zeros(counts.shape[1], np.int64)
    bins = np.zeros(BINS, np.int32)
    spare = np.zeros(LANES, values.dtype)
    for row in range(values.size // cols):
        _rank(values[row * cols : (row + 1) * cols], counts[row], bins, thresholds, ties)
        _write_row(values, row * cols, cols, thresholds, ties, packed, row * row_bytes, spare)


@compiled
def write_group_masks(values, cols, group, counts, packed):
    """Pack N:M masks: of every `group` <= 64 weights in a row, level j prunes the counts[j] lowest. `group` divides `cols`.

    All groups that fit into 64 weights are ranked at once. The rank of a weight is the number of weights of its group that
    come before it. The ranks are binary numbers: word d of `planes` holds digit d of all 64 ranks."""
    width = LANES // group * group
    row_bytes = (cols + 7) // 8
    padded = np.zeros(cols + 2 * LANES, values.dtype)
    planes = np.zeros(6, np.uint64)
    bits = np.zeros((counts.size, row_bytes + 16), np.uint8)
    for row in range(values.size // cols):
        padded[:cols] = values[row * cols : (row + 1) * cols]
        bits[:] = 0
        for col in range(0, cols, width):
            _rank_groups(padded, col, group, width, planes)
            valid = ALL if min(width, cols - col) == LANES else lowest_bits(min(width, cols - col))
            for level in range(counts.size):
                out = bits.ctypes.data + level * bits.shape[1] + col // 8
                keep = _rank_reaches(planes, counts[level]) & valid
                store64(out, load64(out) | keep << np.uint64(col % 8))
                if col % 8:
                    store64(out + 8, keep >> np.uint64(64 - col % 8))
        packed[:, row * row_bytes : (row + 1) * row_bytes] = bits[:, :row_bytes]


@compiled
def _rank_groups(padded, col, group, width, planes):
    """Write the ranks of `width` weights, from padded[col] on, to `planes`."""
    planes[:] = 0
    zero = padded.dtype.type(0)
    for distance in range(1, group):
        # The weights that have a neighbour at this distance in their group.
        pairs = np.uint64(0)
        for start in range(0, width, group):
            pairs |= lowest_bits(group - distance) << np.uint64(start)
        lower = less(place(padded, col + distance), place(padded, col), zero)
        _add(planes, lower & pairs)
        _add(planes, (~lower & pairs) << np.uint64(distance))


@compiled
def _add(planes, word):
    """Add 1 to the ranks whose bit is set in `word`."""
    digit = 0
    while word:
        carry = planes[digit] & word
        planes[digit] ^= word
        word = carry
        digit += 1


@compiled
def _rank_reaches(planes, count):
    """Return a word with the bits of the ranks that are at least `count` < 64."""
    above = np.uint64(0)
    same = ALL
    for digit in range(planes.size - 1, -1, -1):
        if count >> digit & 1:
            same &= planes[digit]
        else:
            above |= same & planes[digit]
            same &= ~planes[digit]
    return above | same


@compiled
def zero_pruned(values, cols, packed):
    """Multiply `values` by the mask in place: +0.0 where the bit of `packed`, uint8 (rows * ceil(cols / 8),), is 0."""
    row_bytes = (cols + 7) // 8
    full = cols // LANES * LANES
    zero = values.dtype.type(0)
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
    """Compare weights with their mask, and return four int64.

    They are the number of zeros, the number of kept zeros, the number of pruned magnitudes >= `limit`, and the largest pruned
    magnitude, whether it is below the limit or not. `limit` and the magnitude are bits in the dtype of `values`. A limit of 1
    allows only exact zeros."""
    counts = np.zeros(3, np.int64)
    largest = 0
    row_bytes = (cols + 7) // 8
    one = values.dtype.type(1)
    full = cols // LANES * LANES
    partial = cols % LANES
    # Copies of the last weights of a row, which are fewer than 64, and of their bits.
    spare = np.zeros(LANES, values.dtype)
    bits = np.zeros(8, np.uint8)
    for row in range(values.size // cols):
        start = row * cols
        for i in range(start, start + full, LANES):
            word = load64(packed.ctypes.data + row * row_bytes + (i - start) // 8)
            prefetch(place(values, i) + AHEAD, one)
            unpruned = _survey(place(values, i), word, ALL, limit, one, counts)
            if unpruned:
                largest = _largest(values[i : i + LANES], unpruned, largest)
        if partial:
            spare[:partial] = values[start + full : start + cols]
            bits[: row_bytes - full // 8] = packed[row * row_bytes + full // 8 : (row + 1) * row_bytes]
            unpruned = _survey(spare.ctypes.data, load64(bits.ctypes.data), lowest_bits(partial), limit, one, counts)
            largest = _largest(spare, unpruned, largest)
    return counts[0], counts[1], counts[2], largest


@compiled
def count_ones(packed):
    """Return the number of ones in each row of uint8 (levels, n), int64 (levels,)."""
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
    """Write the masks of values[start : start + cols] to `packed`, from byte `at` on. `spare` (LANES,) is scratch."""
    row_bytes = (cols + 7) // 8
    full = cols // LANES * LANES
    levels = thresholds.size
    parts = SEGMENT // LANES
    spare[: cols - full] = values[start + full : start + cols]
    valid = lowest_bits(cols - full)
    zero = values.dtype.type(0)
    for begin in range(0, cols, SEGMENT):
        for level in range(levels):
            threshold = thresholds[level]
            ties_to_prune = ties[level]
            col = begin
            stop = min(begin + SEGMENT, full)
            out = packed.ctypes.data + level * packed.shape[1] + at
            # Each level fetches a part of the next segment.
            for part in range(level * parts // levels, (level + 1) * parts // levels):
                prefetch(place(values, start + begin + SEGMENT + part * LANES), zero)
            while ties_to_prune > 0 and col < stop:
                weights = place(values, start + col)
                keep, ties_to_prune = drop_ties(at_least(weights, threshold), equal(weights, threshold), ties_to_prune)
                store64(out + col // 8, keep)
                col += LANES
            # Without ties the loop needs no branch, and is a fifth faster.
            for after in range(col, stop, LANES):
                store64(out + after // 8, at_least(place(values, start + after), threshold))
            if begin + SEGMENT >= cols and valid:
                keep = at_least(spare.ctypes.data, threshold) & valid
                if ties_to_prune > 0:
                    keep, ties_to_prune = drop_ties(keep, equal(spare.ctypes.data, threshold) & valid, ties_to_prune)
                for byte in range(full // 8, row_bytes):
                    packed[level, at + byte] = keep & np.uint64(0xFF)
                    keep >>= np.uint64(8)
            ties[level] = ties_to_prune


@compiled
def _rank(row, counts, bins, thresholds, ties):
    """Compute the thresholds and the ties of one row. `bins`, int32 (BINS,), is zero before and after."""
    shift = _shift(row)
    level = 0
    seen = 0
    low, high = _count_row(row, bins)
    for first in range(low // LANES * LANES, high + 1, LANES):
        start = np.uint64(first)
        stop = np.uint64(first + LANES)
        total = np.int32(0)
        for i in range(start, stop):
            total += bins[i]
        if level < counts.size and seen + total >= counts[level]:
            before = seen
            for i in range(start, stop):
                while level < counts.size and before + bins[i] >= counts[level]:
                    thresholds[level] = i << shift
                    ties[level] = counts[level] - before
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
    """Count a row by its high digit. Return the lowest and the highest digit."""
    shift = _shift(row)
    mask = _digit(row)
    low = np.int32(BINS)
    high = np.int32(0)
    for value in row:
        bins[value >> shift & mask] += np.int32(1)
    # With int32 and without a call of `min`, this loop becomes vector code.
    for i in range(row.size):
        digit = np.int32(row[i] >> shift & mask)
        low = low if low < digit else digit
        high = high if high > digit else digit
    return low, high


@compiled
def _rank_low(row, thresholds, ties, level, lows):
    """Complete a threshold that has only its high digit, by the low digits of the weights that share this high digit.

    `lows`: uint32 (n,), as long as the row, is scratch."""
    if ties[level] == 0:
        return
    shift = _shift(row)
    mask = _digit(row)
    number = np.uint64(0)
    digit = thresholds[level] >> shift & mask
    for value in row:
        if value >> shift & mask == digit:
            lows[number] = value & np.uint64(LOW - 1)
            number += np.uint64(1)
    shared = np.sort(lows[:number])
    low = shared[ties[level] - 1]
    thresholds[level] += low
    ties[level] -= np.searchsorted(shared, low)


@njit(inline="always")
def _shift(values):
    """Return how many bits of a magnitude are below its high digit.

    It is unsigned, because numba would test every index for a sign."""
    return np.uint64(0 if bitwidth(values.dtype.type(0)) == 16 else 15)


@njit(inline="always")
def _digit(values):
    """Return the mask of the bits of a high digit, after the shift."""
    return np.uint64(0x7FFF if bitwidth(values.dtype.type(0)) == 16 else 0xFFFF)


@njit(inline="always")
def _survey(weights, keep, valid, limit, one, counts):
    """Add the three counts of the 64 weights at an address to `counts`. Only weights whose bit is set in `valid` count.

    Return the bits of the pruned weights that are not zero."""
    nonzero = at_least(weights, one) & valid
    zero = ~nonzero & valid
    unpruned = nonzero & ~keep
    counts[0] += popcount(zero)
    counts[1] += popcount(zero & keep)
    counts[2] += popcount(at_least(weights, limit) & unpruned)
    return unpruned


@compiled
def _largest(weights, chosen, largest):
    """Return the largest magnitude, in bits, among `largest` and those of 64 `weights` whose bit is set in `chosen`."""
    sign = np.uint64(bitwidth(weights.dtype.type(0)) - 1)
    for i in range(weights.size):
        if chosen >> np.uint64(i) & np.uint64(1):
            largest = max(largest, np.int64(weights[i] & ((np.uint64(1) << sign) - np.uint64(1))))
    return largest


def _compare(predicate: str):
    """Return an intrinsic that compares the magnitudes of the 64 weights at an address with a threshold.

    Bit i of its word is set if "magnitude i `predicate` threshold" is true."""

    @intrinsic
    def compare(_, address, threshold):
        width = threshold.bitwidth

        def build(context, builder, signature, arguments):
            vector = ir.VectorType(ir.IntType(width), LANES)
            without_sign = ir.Constant(vector, [2 ** (width - 1) - 1] * LANES)
            magnitudes = builder.and_(_load(builder, arguments[0], vector), without_sign)
            first = builder.insert_element(
                ir.Constant(vector, ir.Undefined), arguments[1], ir.Constant(ir.IntType(32), 0)
            )
            first_lane = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            thresholds = builder.shuffle_vector(first, first, first_lane)
            flags = builder.icmp_unsigned(predicate, magnitudes, thresholds)
            return builder.bitcast(flags, _WORD)

        return types.uint64(types.uint64, threshold), build

    return compare


at_least = _compare(">=")
equal = _compare("==")


@intrinsic
def less(_, address, other, zero):
    """Return a word whose bit i is set if magnitude i at `address` is below magnitude i at `other`.

    `zero` is 0 in the type of the weights."""

    def build(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(zero.bitwidth), LANES)
        without_sign = ir.Constant(vector, [2 ** (zero.bitwidth - 1) - 1] * LANES)
        first = builder.and_(_load(builder, arguments[0], vector), without_sign)
        second = builder.and_(_load(builder, arguments[1], vector), without_sign)
        return builder.bitcast(builder.icmp_unsigned("<", first, second), _WORD)

    return types.uint64(types.uint64, types.uint64, zero), build


@intrinsic
def zero_lanes(_, address, keep, zero):
    """Write 0 to those of the 64 weights at `address` whose bit in `keep` is 0. `zero` is 0 in the type of the weights."""

    def build(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(zero.bitwidth), LANES)
        flags = builder.bitcast(arguments[1], ir.VectorType(ir.IntType(1), LANES))
        kept = builder.select(flags, _load(builder, arguments[0], vector), ir.Constant(vector, [0] * LANES))
        builder.store(kept, builder.inttoptr(arguments[0], vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, zero), build


@intrinsic
def bitwidth(_, number):
    """Return the width of a number's type in bits. It is a constant to the compiler, which an array's itemsize is not."""
    return types.int64(number), lambda context, *_: context.get_constant(types.int64, number.bitwidth)


@intrinsic
def prefetch(_, address, zero):
    """Start to load the 64 weights at `address` into the caches. Any address is allowed. `zero` is 0 in their type."""

    def build(context, builder, signature, arguments):
        pointer = ir.IntType(8).as_pointer()
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # For writing, into every cache, data.
        options = [ir.Constant(number, option) for option in (1, 3, 1)]
        # A cache line has 64 bytes.
        for offset in range(0, LANES * zero.bitwidth // 8, 64):
            line = builder.add(arguments[0], ir.Constant(_WORD, offset))
            builder.call(function, [builder.inttoptr(line, pointer), *options])
        return context.get_dummy_value()

    return types.void(types.uint64, zero), build


@intrinsic
def load64(_, address):
    """Return the eight bytes at `address` as a little-endian word."""

    def build(context, builder, signature, arguments):
        return _load(builder, arguments[0], _WORD)

    return types.uint64(types.uint64), build


@intrinsic
def store64(_, address, word):
    """Write a word to the eight bytes at `address`, little-endian."""

    def build(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], _WORD.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), build


@intrinsic
def popcount(_, word):
    """Return how many bits of a word are set."""

    def build(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), build


def _load(builder, address, kind):
    """Build the load of a value of type `kind` at any address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


@njit(inline="always")
def place(values, i):
    """Return the address of values[i]."""
    return values.ctypes.data + i * (bitwidth(values.dtype.type(0)) // 8)


@compiled
def lowest_bits(number):
    """Return a word with the lowest `number` < 64 bits set."""
    return (np.uint64(1) << np.uint64(number)) - np.uint64(1)


@compiled
def drop_ties(keep, equal, ties):
    """Clear the first `ties` set bits of `equal` in `keep`. Return `keep` and how many ties must still be pruned."""
    number = popcount(equal)
    if number <= ties:
        return keep & ~equal, ties - number
    while ties > 0:
        lowest = equal & (~equal + np.uint64(1))
        equal ^= lowest
        keep ^= lowest
        ties -= 1
    return keep, ties
