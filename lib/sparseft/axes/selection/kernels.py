"""Count magnitudes and pack masks: compiled loops over the raw bits of floats.

The magnitudes of floats order like their bits without the sign. BF16 and F16 have 32,768 magnitudes, so one histogram
holds the threshold t of every sparsity. A 32-bit magnitude has two digits: the high 16 bits, and the low 15 bits. The
low digits are counted only in the bins that hold a threshold. Of the weights that equal t, the first `ties` in flat
order are pruned:

    keep  <=>  m > t  or  (m == t and at least `ties` equal weights come before)

A stable ascending sort would prune the same weights.

Every compiled function releases the GIL, so that threads run side by side. All of them are in one file, because numba's
cache of compiled code notices an edit only in a function's own file.
"""

import numpy as np

from sparseft.storage.bits import row_bytes
from sparseft.storage.compiled import compiled

# Bytes of a mask, or groups, that are made at once. The codes of their weights stay in the first cache.
CHUNK = 512
# Values of the high digit of a magnitude: all 15 bits of a 16-bit one, the high 16 bits of a 32-bit one.
BINS = 1 << 16
# Values of the low digit of a 32-bit magnitude.
LOW = 1 << 15
# Stands for a code that the high digit does not decide.
UNDECIDED = np.uint8(255)


def masks_of(block: np.ndarray, cols: int, thresholds: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Return the packed masks of some whole rows, uint8 (levels, n). `thresholds` and `ties`: those of
    `write_masks`."""
    packed = np.empty((thresholds.shape[1], block.size // cols * row_bytes(cols)), np.uint8)
    # If each row fills whole bytes, rows of one scope are written as one long row.
    is_one_row = cols % 8 == 0 and len(thresholds) == 1
    write_masks(block, block.size if is_one_row else cols, thresholds, ties, packed)
    return packed


@compiled
def count_high(bits, counts):
    """Add the magnitudes of `bits`, uint16 or uint32 (n,), to `counts`, int32 (BINS,), by their high digit."""
    shift = _shift(bits)
    top = _magnitude_bits(bits)
    for value in bits:
        counts[(value & top) >> shift] += np.int32(1)


@compiled
def count_low(bits, slots, counts):
    """Add the magnitudes of uint32 `bits` to `counts`, int (S, LOW), by their low digit.

    slots: int8 (BINS,), the row of `counts` for a high digit. A magnitude with a negative slot is not counted."""
    shift = _shift(bits)
    top = _magnitude_bits(bits)
    for value in bits:
        slot = slots[(value & top) >> shift]
        if slot >= 0:
            counts[slot, value & np.uint64(LOW - 1)] += 1


@compiled
def rank_in_groups(bits, group, ranks):
    """Write the rank of each magnitude among its `group` consecutive ones to `ranks`, uint8 (n,). Equal ones keep their
    order.

    bits: uint16 or uint32 (n,)"""
    top = _magnitude_bits(bits)
    groups = bits.size // group
    # Both hold place i of group g at (i, g).
    values = np.empty((group, CHUNK), bits.dtype)
    lower = np.empty((group, CHUNK), bits.dtype)
    for first in range(0, groups, CHUNK):
        number = min(CHUNK, groups - first)
        lower[:] = 0
        for i in range(group):
            for g in range(number):
                values[i, g] = bits[group * (first + g) + i] & top
        for later in range(group):
            for earlier in range(later):
                for g in range(number):
                    is_lower = values[later, g] < values[earlier, g]
                    lower[earlier, g] += is_lower
                    lower[later, g] += 1 - is_lower
        for i in range(group):
            for g in range(number):
                ranks[group * (first + g) + i] = lower[i, g]


@compiled
def write_masks(bits, cols, thresholds, ties, packed):
    """Pack the masks of `bits`, uint16 or uint32 (rows * cols,), for every level.

    thresholds: (1, levels) for all rows together or (rows, levels), ascending, in the dtype of `bits`
    ties: int64 (like thresholds), how many weights equal to the threshold must still be pruned; it is counted down
    packed: uint8 (levels, rows * ceil(cols / 8)), which is filled"""
    size = (cols + 7) // 8
    lookup = np.empty(BINS, np.uint8) if _shift(bits) else np.empty(LOW, np.uint8)
    codes = np.empty((8, CHUNK), np.uint8)
    equals = np.empty(CHUNK, np.uint8)
    for row in range(bits.size // cols):
        scope = row if thresholds.shape[0] > 1 else 0
        if row == 0 or scope:
            _fill(lookup, thresholds[scope])
        for first in range(0, size, CHUNK):
            weights = bits[row * cols + 8 * first : row * cols + min(cols, 8 * (first + CHUNK))]
            _encode(weights, thresholds[scope], lookup, codes)
            for level in range(thresholds.shape[1]):
                out = packed[level, row * size + first : row * size + min(size, first + CHUNK)]
                equal = _code(thresholds[scope, level], thresholds[scope])
                ties[scope, level] = _pack(codes, equal, ties[scope, level], equals, out)


@compiled
def _fill(lookup, thresholds):
    """Write the code of every high digit to `lookup`, uint8 (number of high digits,)."""
    shift = _shift(thresholds)
    start = 0
    for level in range(thresholds.size):
        digit = thresholds[level] >> shift
        lookup[start:digit] = 2 * level
        start = digit
    lookup[start:] = 2 * thresholds.size
    for threshold in thresholds:
        lookup[threshold >> shift] = UNDECIDED if shift else _code(threshold, thresholds)


@compiled
def _code(magnitude, thresholds):
    """Return how many thresholds are below a magnitude, plus how many are not above it. The code of a threshold is its
    own."""
    code = 0
    for threshold in thresholds:
        code += (threshold < magnitude) + (threshold <= magnitude)
    return np.uint8(code)


@compiled
def _encode(weights, thresholds, lookup, codes):
    """Write the codes of up to 8 * CHUNK weights to `codes`, (8, CHUNK): weight 8 b + i to place (i, b), 0 behind the
    last."""
    shift = _shift(weights)
    top = _magnitude_bits(weights)
    for i in range(8):
        lane = codes[i]
        number = (weights.size - i + 7) // 8
        lane[number:] = 0
        for b in range(number):
            magnitude = weights[8 * b + i] & top
            code = lookup[magnitude >> shift]
            lane[b] = _code(magnitude, thresholds) if shift and code == UNDECIDED else code


@compiled
def _pack(codes, equal, ties, equals, out):
    """Write the mask of one level to `out`, uint8 (n,). Return how many weights with the code `equal` must still be
    pruned.

    equals: uint8 (CHUNK,), which is overwritten"""
    number = 0
    if ties:
        # Numbers of eight weights each. Without them, the loop takes eight times as long.
        for b in range(out.size):
            of_byte = np.uint8(0)
            for i in range(8):
                of_byte = np.uint8(of_byte + np.uint8(codes[i, b] == equal))
            equals[b] = of_byte
        for b in range(out.size):
            number += equals[b]
    # The last code that is pruned. If only some of the equal weights are, they are cleared below.
    last = np.uint8(equal if ties and number <= ties else equal - 1)
    for b in range(out.size):
        byte = np.uint8(0)
        for i in range(8):
            byte |= np.uint8(1 << i) if codes[i, b] > last else np.uint8(0)
        out[b] = byte
    if number <= ties:
        return ties - number
    for b in range(out.size):
        if ties and equals[b]:
            for i in range(8):
                if ties and codes[i, b] == equal:
                    out[b] &= ~np.uint8(1 << i)
                    ties -= 1
    return 0


@compiled
def _magnitude_bits(bits):
    """Return the mask of a magnitude, a word without its sign bit."""
    return np.uint64(bits.dtype.type(0xFFFFFFFF) >> 1)


@compiled
def _shift(bits):
    """Return how many bits of a magnitude are below its high digit.

    It is unsigned, because numba would test every index for a sign."""
    return np.uint64(0 if _magnitude_bits(bits) == 0x7FFF else 15)
