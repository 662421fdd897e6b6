"""Select the weights to prune, exactly, and write their masks as the scores are read.

Weights that are ranked together (a scope: a layer, a row, a group of N:M, all layers) are pruned in the order of a stable
ascending sort by score: the first round(s * n) of them, ties by flat index. So the counts are exact and the masks are nested:
what 50 % prunes, 60 % prunes too.

No weights are sorted. A first reading of the scores counts their bits in a histogram, which holds the threshold of every
sparsity (masks/mask_kernels.py). A second reading writes the masks. Memory is a few blocks per thread, whatever the model.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from sparseft.checkpoints.checkpoint import infinity
from sparseft.errors import InputError
from sparseft.masks import mask_kernels
from sparseft.masks.mask_file import row_bytes
from sparseft.pruning.mask_report import Scores
from sparseft.pruning.scores import Source

# Layer, byte offset in the layer's bits, uint8 (levels, n). The array is reused after the call.
Emit = Callable[[str, int, np.ndarray], None]
UNKNOWN = np.iinfo(np.int64).max  # ties of a block that were not counted
_BUFFERS = threading.local()


@dataclass(frozen=True)
class Selection:
    """What is ranked, how much of it is pruned, and where the masks go. A level is one of the sparsities.

    `dtypes` are those of each layer's scores (BF16, F16, F32), or None if their bits are no float. `percents` ascend."""

    source: Source
    shape: dict[str, tuple[int, int]]
    dtypes: dict[str, str | None]
    percents: list[int]
    emit: Emit

    def counts(self, total: int) -> np.ndarray:
        """Return how many of `total` weights each level prunes, exactly, halves to even; int64 (levels,)."""
        return np.array([round(Fraction(percent * total, 100)) for percent in self.percents], np.int64)


@dataclass
class Thresholds:
    """The threshold of each level: all smaller magnitudes are pruned, and the first `ties` equal ones.

    `values` has the dtype of the scores' bits, (levels,). `ties` is int64 (levels,), and shrinks as blocks are written.
    `ties_by_block` is int64 (blocks, levels), the equal weights of each block in the order of reading; empty if unknown."""

    values: np.ndarray
    ties: np.ndarray
    ties_by_block: np.ndarray

    def write_next(self, number: int, block: np.ndarray, cols: int, packed: np.ndarray) -> None:
        """Write the masks of block `number` into `packed`, uint8 (levels, n)."""
        # Rows of whole bytes are one long row, which has no ends to treat apart.
        width = cols if cols % 8 else block.size
        equal = self.ties_by_block[number] if number < len(self.ties_by_block) else np.full(self.ties.size, UNKNOWN)
        # If a level prunes all ties of the block, the next threshold does too, and the kernel looks for no tie.
        whole = equal <= self.ties
        remaining = np.where(whole, 0, self.ties)
        mask_kernels.write_masks(block, width, self.values + whole.astype(self.values.dtype), remaining, packed)
        self.ties[:] = np.where(whole, self.ties - equal, remaining)


def select_together(selection: Selection, layers: Sequence[str]) -> list[Scores]:
    """Rank all weights of `layers` as one and write their masks, in two readings, three for 32-bit scores."""
    histograms, ties_counted, word, total = _count(selection, layers)
    high = histograms[0] if len(layers) == 1 else np.sum(histograms, axis=0, dtype=np.int64)
    scores = [_scores(selection, layer, histogram) for layer, histogram in zip(layers, histograms, strict=True)]
    digits, ties = _bins_of(high, selection.counts(total))
    if word == np.uint32:
        digits = _low_digits(selection, layers, digits, ties)
    thresholds = Thresholds(digits.astype(word), ties, _ties_by_block(ties_counted, digits))
    number = 0
    for layer in layers:
        cols = selection.shape[layer][1]
        for block, packed in _blocks_to_fill(selection, layer):
            thresholds.write_next(number, block, cols, packed)
            number += 1
    return scores


def select_rows(selection: Selection, layer: str) -> Scores:
    """Rank every row of a layer by itself, and write the layer's masks."""
    cols = selection.shape[layer][1]
    counts = selection.counts(cols)
    histogram = np.zeros(mask_kernels.BINS, np.int32)
    for block, packed in _blocks_to_fill(selection, layer):
        mask_kernels.count_high(block, histogram)
        mask_kernels.write_row_masks(block, cols, counts, packed)
    return _scores(selection, layer, histogram)


def select_groups(selection: Selection, layer: str, group: int) -> Scores:
    """Rank every `group` consecutive weights of a row by themselves (N:M), and write the layer's masks.

    Raises InputError if the groups do not divide a row."""
    cols = selection.shape[layer][1]
    if cols % group:
        raise InputError(
            f"{layer}: its {cols} columns cannot be divided into groups of {group}", "choose another masks.nm_group"
        )
    counts = selection.counts(group)
    histogram = np.zeros(mask_kernels.BINS, np.int32)
    for block, packed in _blocks_to_fill(selection, layer):
        mask_kernels.count_high(block, histogram)
        mask_kernels.write_group_masks(block, cols, group, counts, packed)
    return _scores(selection, layer, histogram)


def _blocks_to_fill(selection: Selection, layer: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every block with room for its masks, uint8 (levels, n), and emit the room when the caller has filled it."""
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
    """Read the scores of `layers` once.

    Return each layer's histogram, int32 (BINS,), by the high digit; the histogram after each block, int32 (LOW,); the dtype
    of the bits; and the number of weights. The histograms after each block are kept only for 16-bit scores of one layer: they
    take 128 KB per block of 2 MB, which would be too much for a whole model."""
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


def _ties_by_block(after_blocks: list[np.ndarray], digits: np.ndarray) -> np.ndarray:
    """Return how many weights of each block lie at each threshold, int64 (blocks, levels); empty if that was not counted.

    A reading gives the same blocks every time, so what the first one counted of a block holds in the second."""
    if not after_blocks:
        return np.empty((0, digits.size), np.int64)
    return np.diff([counts[digits] for counts in after_blocks], axis=0, prepend=0)


def _low_digits(selection: Selection, layers: Sequence[str], digits: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Return the whole 32-bit thresholds from their high digits. `ties` become those of the whole thresholds, in place."""
    used = np.unique(digits)
    slots = np.full(mask_kernels.BINS, -1, np.int8)
    slots[used] = np.arange(used.size)
    # int32 is enough for one layer, which has fewer than 2^31 weights, and halves the cache use. A model needs int64.
    low = np.zeros((used.size, mask_kernels.LOW), np.int32 if len(layers) == 1 else np.int64)
    for layer in layers:
        for block in selection.source(layer):
            mask_kernels.count_low(block, slots, low)
    thresholds = digits * mask_kernels.LOW
    for level, digit in enumerate(digits):
        one = slice(level, level + 1)
        low_digit, ties[one] = _bins_of(low[slots[digit]], ties[one])
        thresholds[one] += low_digit
    return thresholds


def _bins_of(histogram: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin in which the first counts[j] values end, and how many of that bin are among them: int64 (levels,)."""
    used = np.flatnonzero(histogram != 0)  # On bool it takes a fifth of the time.
    ends = np.cumsum(histogram[used], dtype=np.int64)
    places = np.searchsorted(ends, counts)
    return used[places], counts - (ends[places] - histogram[used[places]])


def _scores(selection: Selection, layer: str, histogram: np.ndarray) -> Scores:
    """Return the distribution of a layer's scores. Raises InputError if one is NaN or infinity."""
    dtype = selection.dtypes[layer]
    if dtype and histogram[infinity(dtype) >> (15 if dtype == "F32" else 0) :].any():
        raise InputError(f"{layer}.weight holds NaN or infinity", "repair or replace the checkpoint")
    return Scores.of_histogram(histogram, dtype)


def _buffer(name: Hashable, size: int, dtype: type) -> np.ndarray:
    """Return memory of this thread, (size,), with the content of its last use. Fresh memory costs a page fault per 4 KB."""
    buffers = vars(_BUFFERS)
    if name not in buffers or buffers[name].size < size:
        buffers[name] = np.empty(size, dtype)
    return buffers[name][:size]
