"""Select exactly the weights to prune, and write their masks.

A scope is what is ranked together: a layer, a row, a group of N:M, or all layers. Of the n weights of a scope, a sparsity s
prunes round(s * n): those with the lowest scores, and among equal scores those with the lowest flat index. So the counts are
exact and the masks are nested: what 50 % prunes, 60 % prunes too. An allocation (allocation.py) may give each layer a count of
its own, which is divided evenly among the scopes of the layer.

No weights are sorted. A first reading of the scores counts their bits in a histogram, from which the threshold of every
sparsity follows. A second reading writes the masks. Scores of 16 bits are one digit. Scores of 32 bits have a high and a low
digit, and a reading of its own for the low one (masks/mask_kernels.py). Memory is a few blocks per thread, for any model.
"""

import math
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from sparseft.checkpoints.checkpoint import infinity
from sparseft.errors import InputError
from sparseft.masks import mask_kernels
from sparseft.masks.mask_file import row_bytes
from sparseft.pruning.mask_report import ScoreDistribution
from sparseft.pruning.scores import Source

# Takes a layer, a byte offset in the layer's mask, and mask bytes, uint8 (levels, n). The array is reused after the call.
Emit = Callable[[str, int, np.ndarray], None]
# Stands for the number of ties of a block if it was not counted.
UNKNOWN = np.iinfo(np.int64).max
_BUFFERS = threading.local()


@dataclass(frozen=True)
class Selection:
    """Hold what is ranked, how much of it is pruned, and where the masks go. A level is the index of a sparsity in `percents`.

    source: yields the scores of a layer, block by block; a second reading yields the same blocks
    shape: layer -> (rows, cols)
    dtypes: layer -> dtype of its scores, BF16, F16 or F32; None if their bits are not those of a float
    percents: the sparsities in percent, ascending
    emit: takes the masks
    allocated: layer -> how many of its weights each level prunes, int64 (levels,); None if every scope prunes its share"""

    source: Source
    shape: dict[str, tuple[int, int]]
    dtypes: dict[str, str | None]
    percents: list[int]
    emit: Emit
    allocated: dict[str, np.ndarray] | None = None

    def counts(self, total: int) -> np.ndarray:
        """Return how many of `total` weights each level prunes, int64 (levels,). Halves are rounded to even."""
        return np.array([round(Fraction(percent * total, 100)) for percent in self.percents], np.int64)

    def layer_counts(self, layer: str, scope: int) -> np.ndarray:
        """Return how many weights of a layer each level prunes, int64 (levels,). A scope has `scope` weights."""
        if self.allocated is not None:
            return self.allocated[layer]
        return math.prod(self.shape[layer]) // scope * self.counts(scope)


@dataclass
class Thresholds:
    """Hold the threshold of each level. All smaller scores are pruned, and the first `ties` scores that equal it.

    values: (levels,), in the dtype of the scores' bits
    ties: int64 (levels,), how many equal scores must still be pruned; it shrinks as blocks are written
    ties_by_block: int64 (blocks, levels), the number of equal scores of each block; (0, levels) if they were not counted"""

    values: np.ndarray
    ties: np.ndarray
    ties_by_block: np.ndarray

    def write_next(self, number: int, block: np.ndarray, cols: int, packed: np.ndarray) -> None:
        """Write the masks of block `number` into `packed`, uint8 (levels, n)."""
        # If each row fills whole bytes, the block is written as one long row, so that no row ends need care.
        width = cols if cols % 8 else block.size
        equal = self.ties_by_block[number] if number < len(self.ties_by_block) else np.full(self.ties.size, UNKNOWN)
        # If a level prunes all equal scores of the block, a threshold that is higher by one prunes the same weights. Then the
        # kernel need not count them.
        prunes_all_equal = equal <= self.ties
        values = self.values + prunes_all_equal.astype(self.values.dtype)
        remaining = np.where(prunes_all_equal, 0, self.ties)
        # This counts `remaining` down.
        mask_kernels.write_masks(block, width, values, remaining, packed)
        self.ties[:] = np.where(prunes_all_equal, self.ties - equal, remaining)


def select_together(selection: Selection, layers: Sequence[str]) -> list[ScoreDistribution]:
    """Rank all weights of `layers` together, write their masks, and return the distribution of each layer's scores.

    This reads the scores twice, and 32-bit scores three times."""
    histograms, after_blocks, word, total = _count(selection, layers)
    histogram = histograms[0] if len(layers) == 1 else np.sum(histograms, axis=0, dtype=np.int64)
    scores = [_scores(selection, layer, own) for layer, own in zip(layers, histograms, strict=True)]
    counts = selection.layer_counts(layers[0], total) if len(layers) == 1 else selection.counts(total)
    values, ties = _bins_of(histogram, counts)
    if word == np.uint32:
        values, ties = _with_low_digits(selection, layers, values, ties)
    thresholds = Thresholds(values.astype(word), ties, _ties_by_block(after_blocks, values))
    number = 0
    for layer in layers:
        cols = selection.shape[layer][1]
        for block, packed in _blocks_to_fill(selection, layer):
            thresholds.write_next(number, block, cols, packed)
            number += 1
    return scores


def select_rows(selection: Selection, layer: str) -> ScoreDistribution:
    """Rank every row of a layer by itself, write the layer's masks, and return the distribution of its scores.

    If the layer's count is not a multiple of its rows, the first rows prune one more weight than the others."""
    rows, cols = selection.shape[layer]
    # (rows, levels)
    counts = (selection.layer_counts(layer, cols) + np.arange(rows)[::-1, None]) // rows
    histogram = np.zeros(mask_kernels.BINS, np.int32)
    row = 0
    for block, packed in _blocks_to_fill(selection, layer):
        mask_kernels.count_high(block, histogram)
        next_row = row + block.size // cols
        mask_kernels.write_row_masks(block, cols, counts[row:next_row], packed)
        row = next_row
    return _scores(selection, layer, histogram)


def select_groups(selection: Selection, layer: str, group: int) -> ScoreDistribution:
    """Rank every `group` consecutive weights of a row by themselves (N:M), write the masks, and return the distribution.

    Raises InputError if the groups do not divide a row."""
    rows, cols = selection.shape[layer]
    check_groups(layer, cols, group)
    counts = selection.layer_counts(layer, group) // (rows * cols // group)
    histogram = np.zeros(mask_kernels.BINS, np.int32)
    for block, packed in _blocks_to_fill(selection, layer):
        mask_kernels.count_high(block, histogram)
        mask_kernels.write_group_masks(block, cols, group, counts, packed)
    return _scores(selection, layer, histogram)


def check_groups(layer: str, cols: int, group: int) -> None:
    """Raise InputError if the groups of N:M do not divide a layer's rows."""
    if cols % group:
        raise InputError(
            f"{layer}: its {cols} columns cannot be divided into groups of {group}", "choose another masks.nm_group"
        )


def _blocks_to_fill(selection: Selection, layer: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every block with an array for its masks, uint8 (levels, n). Emit the array after the caller has filled it."""
    cols = selection.shape[layer][1]
    levels = len(selection.percents)
    offset = 0
    for block in selection.source(layer):
        size = block.size // cols * row_bytes(cols)
        packed = _buffer("masks", levels * size, np.uint8).reshape(levels, size)
        yield block, packed
        selection.emit(layer, offset, packed)
        offset += size


def _count(selection: Selection, layers: Sequence[str]) -> tuple[list[np.ndarray], list[np.ndarray], np.dtype, int]:
    """Read the scores of `layers` once, and count their high digits.

    Return each layer's histogram, int32 (BINS,); the histogram as it was after each block, int32 (LOW,); the dtype of the
    bits; and the number of weights. The second is kept only for 16-bit scores of one layer, and is empty otherwise. It takes
    128 KB per block of 2 MB, which is too much for a whole model."""
    histograms = []
    after_blocks: list[np.ndarray] = []
    total = 0
    for layer in layers:
        histogram = np.zeros(mask_kernels.BINS, np.int32)
        for block in selection.source(layer):
            mask_kernels.count_high(block, histogram)
            total += block.size
            word = block.dtype
            if word == np.uint16 and len(layers) == 1:
                copy = _buffer(("histogram", len(after_blocks)), mask_kernels.LOW, np.int32)
                copy[:] = histogram[: mask_kernels.LOW]
                after_blocks.append(copy)
        histograms.append(histogram)
    return histograms, after_blocks, word, total


def _ties_by_block(after_blocks: list[np.ndarray], values: np.ndarray) -> np.ndarray:
    """Return how many scores of each block equal each threshold, int64 (blocks, levels); (0, levels) if not counted."""
    if not after_blocks:
        return np.empty((0, values.size), np.int64)
    # A histogram includes the blocks before its own, so a block's count is the difference to the histogram before.
    return np.diff([histogram[values] for histogram in after_blocks], axis=0, prepend=0)


def _with_low_digits(
    selection: Selection, layers: Sequence[str], digits: np.ndarray, ties: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole 32-bit thresholds and their ties, both int64 (levels,).

    `digits` has the high digits of the thresholds, and `ties` the number of weights to prune with each of these digits."""
    used = np.unique(digits)
    # High digit -> row of `low`; -1 if no threshold has this digit.
    slots = np.full(mask_kernels.BINS, -1, np.int8)
    slots[used] = np.arange(used.size)
    # int32 is enough for one layer, which has fewer than 2^31 weights, and takes half of the cache. A model needs int64.
    low = np.zeros((used.size, mask_kernels.LOW), np.int32 if len(layers) == 1 else np.int64)
    for layer in layers:
        for block in selection.source(layer):
            mask_kernels.count_low(block, slots, low)
    low_digits = np.empty_like(digits)
    low_ties = np.empty_like(ties)
    for level, digit in enumerate(digits):
        bins, ties_in_bins = _bins_of(low[slots[digit]], ties[[level]])
        low_digits[level] = bins[0]
        low_ties[level] = ties_in_bins[0]
    return digits * mask_kernels.LOW + low_digits, low_ties


def _bins_of(histogram: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of the last of the first counts[j] values, and how many values of that bin are among them.

    Both are int64 (levels,)."""
    # flatnonzero takes a fifth of the time if its input is bool.
    used = np.flatnonzero(histogram != 0)
    ends = np.cumsum(histogram[used], dtype=np.int64)
    places = np.searchsorted(ends, counts)
    bins = used[places]
    values_before = ends[places] - histogram[bins]
    return bins, counts - values_before


def _scores(selection: Selection, layer: str, histogram: np.ndarray) -> ScoreDistribution:
    """Return the distribution of a layer's scores. Raises InputError if one is NaN or infinity."""
    dtype = selection.dtypes[layer]
    # The histogram of 32-bit scores counts only the high digit.
    divisor = mask_kernels.LOW if dtype == "F32" else 1
    if dtype and histogram[infinity(dtype) // divisor :].any():
        raise InputError(f"{layer}.weight holds NaN or infinity", "repair or replace the checkpoint")
    return ScoreDistribution.of_histogram(histogram, dtype)


def _buffer(name: Hashable, size: int, dtype: type) -> np.ndarray:
    """Return memory of this thread, (size,), which still has its old content. Reuse it, because new memory costs page faults."""
    buffers = vars(_BUFFERS)
    if name not in buffers or buffers[name].size < size:
        buffers[name] = np.empty(size, dtype)
    return buffers[name][:size]
