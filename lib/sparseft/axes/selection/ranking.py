"""Hold the scores of a pass and take its masks. Memory is a few blocks per thread, for any model.

The weights of a row or of a group are sorted. Those of a layer, or of the model, are not: a first reading of the scores
counts their bits in a histogram, from which the threshold of every sparsity follows. A second reading writes the masks.
Scores of 16 bits are one digit. Scores of 32 bits have a high and a low digit, and a reading of its own for the low
one.

The compiled loops (kernels.py) are imported where they are called, because a plan needs no numba.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from sparseft.axes.architectures.prunable_model import PrunableModel
from sparseft.common.errors import InputError
from sparseft.common.progress import show
from sparseft.storage.bits import is_finite, pack, row_bytes

Source = Callable[[str], Iterator[np.ndarray]]  # layer -> its blocks
# Takes a layer, a byte offset in the layer's mask, and mask bytes, uint8 (levels, n).
Emit = Callable[[str, int, np.ndarray], None]


@dataclass(frozen=True)
class Ranking:
    """Hold what a pattern selects from. A way of selection writes all masks.

    source: yields the scores of a layer, block by block, as raw bits that order like the scores; a second reading
        yields the same blocks. A block holds whole rows, flat, as uint16 or uint32. The sign bit means nothing
    shape: layer -> (rows, cols)
    dtypes: layer -> dtype of its scores, BF16, F16 or F32; None if their bits are not those of a float
    percents: the sparsities in percent, ascending; a level is the index of a sparsity
    emit: takes the masks
    allocated: layer -> how many of its weights each level prunes, int64 (levels,); None if every scope prunes its share
    scope: what the settings rank together: layer, row, group or global
    sums_columns: whether the score of a unit is the sum over its columns only
    model: the model that has the layers, and maybe more
    settings: the section `masks:`"""

    source: Source
    shape: dict[str, tuple[int, int]]
    dtypes: Mapping[str, str | None]
    percents: list[int]
    emit: Emit
    allocated: dict[str, np.ndarray] | None = None
    _: KW_ONLY
    scope: str = "layer"
    sums_columns: bool = False
    model: PrunableModel | None = None
    settings: Any = None
    threads: int = 1

    def counts(self, total: int) -> np.ndarray:
        """Return how many of `total` weights each level prunes, int64 (levels,). Halves are rounded to even."""
        return np.array([round(Fraction(percent * total, 100)) for percent in self.percents], np.int64)

    def layer_counts(self, layer: str, scope: int) -> np.ndarray:
        """Return how many weights of a layer each level prunes, int64 (levels,). A scope has `scope` weights."""
        if self.allocated is not None:
            return self.allocated[layer]
        return math.prod(self.shape[layer]) // scope * self.counts(scope)

    def read(self, layer: str) -> Iterator[np.ndarray]:
        """Yield the scores of a layer, block by block. Raises InputError if one is NaN or infinity."""
        dtype = self.dtypes[layer]
        for block in self.source(layer):
            if dtype and not is_finite(block, dtype):
                raise InputError(f"{layer}.weight holds NaN or infinity", "repair or replace the checkpoint")
            yield block

    def write(self, layer: str, make: Callable[[int, np.ndarray], np.ndarray]) -> None:
        """Write the masks of a layer. `make(row, block)` returns those of a block, uint8 (levels, n). Its first row is
        `row`."""
        cols = self.shape[layer][1]
        row = 0
        for block in self.read(layer):
            self.emit(layer, row * row_bytes(cols), make(row, block))
            row += block.size // cols

    def keep_all(self) -> None:
        """Keep every weight, without a look at the scores."""
        for layer, (rows, cols) in self.shape.items():
            row = pack(np.ones((1, cols), bool))
            self.emit(layer, 0, np.tile(row, (len(self.percents), rows)))

    def in_threads(self, select: Callable[[Any], None], items: Sequence) -> None:
        """Call `select` for all items. One layer is read while another is counted."""
        if len(items) == 1:
            select(items[0])
            return
        with ThreadPoolExecutor(self.threads) as pool:
            # After an error, `map` starts no other call.
            for _ in show(pool.map(select, items), "mask", len(items)):
                pass


def by_scope(ranking: Ranking) -> None:
    """Rank the weights that the settings rank together: those of a layer, of a row, or of the model."""
    {"layer": by_layer, "row": by_row, "global": by_model}[ranking.scope](ranking)


def by_row(ranking: Ranking) -> None:
    """Rank the weights of each row by themselves. The scores are read once.

    If a layer's count is not a multiple of its rows, the first rows prune one more weight than the others."""
    from sparseft.axes.selection.kernels import masks_of

    def select(layer: str) -> None:
        rows, cols = ranking.shape[layer]
        # (rows, levels)
        counts = (ranking.layer_counts(layer, cols) + np.arange(rows)[::-1, None]) // rows

        def make(row: int, block: np.ndarray) -> np.ndarray:
            magnitudes = block.reshape(-1, cols) & block.dtype.type(np.iinfo(block.dtype).max >> 1)
            # numpy sorts 32 bits with vector instructions, and 16 bits by their digits if the sort must be stable.
            magnitudes.sort(axis=1, kind="stable" if block.itemsize == 2 else None)
            wanted = counts[row : row + len(magnitudes)]
            # The last magnitude that is pruned, (rows, levels). Of the weights that equal it, the first are pruned.
            thresholds = np.take_along_axis(magnitudes, np.maximum(wanted - 1, 0), axis=1)
            below = [np.searchsorted(*of_row) for of_row in zip(magnitudes, thresholds, strict=True)]
            return masks_of(block, cols, thresholds, wanted - np.array(below))

        ranking.write(layer, make)

    ranking.in_threads(select, list(ranking.shape))


def by_group(ranking: Ranking, group: int) -> None:
    """Rank every `group` consecutive weights of a row by themselves. The scores are read once.

    Raises InputError if the groups do not divide a row."""
    from sparseft.axes.selection.kernels import rank_in_groups

    def select(layer: str) -> None:
        rows, cols = ranking.shape[layer]
        check_groups(layer, cols, group)
        counts = ranking.layer_counts(layer, group) // (rows * cols // group)

        def make(_: int, block: np.ndarray) -> np.ndarray:
            ranks = np.empty(block.size, np.uint8)
            rank_in_groups(block, group, ranks)
            return np.stack([pack(ranks.reshape(-1, cols) >= count).reshape(-1) for count in counts])

        ranking.write(layer, make)

    ranking.in_threads(select, list(ranking.shape))


def check_groups(layer: str, cols: int, group: int) -> None:
    """Raise InputError if the groups of N:M do not divide a layer's rows."""
    if cols % group:
        raise InputError(
            f"{layer}: its {cols} columns cannot be divided into groups of {group}",
            "leave the method out of grid.methods",
        )


def by_layer(ranking: Ranking) -> None:
    """Rank the weights of each layer by themselves."""
    ranking.in_threads(lambda layer: _select_together(ranking, [layer]), list(ranking.shape))


def by_model(ranking: Ranking) -> None:
    """Rank the weights of all layers together. Raises InputError if the dtypes of their scores differ."""
    dtypes = sorted(set(map(str, ranking.dtypes.values())))
    if len(dtypes) > 1:
        raise InputError(
            f"the model's layers are in {' and '.join(dtypes)}, so they cannot be ranked together",
            "set masks.scope to layer or row",
        )
    _select_together(ranking, list(ranking.shape))


def _select_together(ranking: Ranking, layers: list[str]) -> None:
    """Rank all weights of `layers` together, and write their masks.

    This reads the scores twice, and 32-bit scores three times."""
    from sparseft.axes.selection.kernels import BINS, count_high, masks_of

    histogram = np.zeros(BINS, np.int64)
    for layer in layers:
        # int32 takes half of the cache.
        of_layer = np.zeros(BINS, np.int32)
        for block in ranking.read(layer):
            count_high(block, of_layer)
        histogram += of_layer
    total = sum(math.prod(ranking.shape[layer]) for layer in layers)
    counts = ranking.layer_counts(layers[0], total) if len(layers) == 1 else ranking.counts(total)
    values, ties = _bins_of(histogram, counts)
    if block.dtype == np.uint32:
        values, ties = _with_low_digits(ranking, layers, values, ties)
    thresholds = values.astype(block.dtype)[None]
    for layer in layers:

        def make(_: int, block: np.ndarray, cols: int = ranking.shape[layer][1]) -> np.ndarray:
            # Every block counts the ties down.
            return masks_of(block, cols, thresholds, ties[None])

        ranking.write(layer, make)


def _with_low_digits(
    ranking: Ranking, layers: list[str], digits: np.ndarray, ties: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole 32-bit thresholds and their ties, both int64 (levels,).

    `digits` has the high digits of the thresholds, and `ties` the number of weights to prune with each of these
    digits."""
    from sparseft.axes.selection.kernels import BINS, LOW, count_low

    used, rows = np.unique(digits, return_inverse=True)
    # High digit -> row of `low`; -1 if no threshold has this digit.
    slots = np.full(BINS, -1, np.int8)
    slots[used] = np.arange(used.size)
    # int32 is enough for one layer, which has fewer than 2^31 weights, and takes half of the cache. A model needs
    # int64.
    low = np.zeros((used.size, LOW), np.int32 if len(layers) == 1 else np.int64)
    for layer in layers:
        for block in ranking.source(layer):
            count_low(block, slots, low)
    bins, low_ties = zip(*(_bins_of(low[row], ties[[level]]) for level, row in enumerate(rows)), strict=True)
    return digits * LOW + np.concatenate(bins), np.concatenate(low_ties)


def _bins_of(histogram: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of the last of the first counts[j] values, and how many values of that bin are among them.

    Both are int64 (levels,)."""
    # flatnonzero takes a fifth of the time if its input is bool.
    used = np.flatnonzero(histogram != 0)
    ends = np.cumsum(histogram[used], dtype=np.int64)
    indices = np.searchsorted(ends, counts)
    bins = used[indices]
    values_before = ends[indices] - histogram[bins]
    return bins, counts - values_before
