"""Select exactly the weights to prune, and write their masks. A pattern chooses one of the ways of `Ranking`.

A scope is what is ranked together: a layer, a row, a group of N:M, or all layers. Of the n weights of a scope, a sparsity s
prunes round(s * n): those with the lowest scores, and among equal scores those with the lowest flat index. So the counts are
exact and the masks are nested: what 50 % prunes, 60 % prunes too. An allocation (allocation.py) may give each layer a count of
its own, which is divided evenly among the scopes of the layer.

The weights of a layer or a model are not sorted. A first reading of the scores counts their bits in a histogram, from which the
threshold of every sparsity follows. A second reading writes the masks. Scores of 16 bits are one digit. Scores of 32 bits have
a high and a low digit, and a reading of its own for the low one (masks/mask_kernels.py). Memory is a few blocks per thread, for
any model.

Structured pruning removes whole coupled channels, scored by the sum over all weights of a channel, as LLM-Pruner does (arXiv
2305.11627, sections 3.1 and 3.2). If the importance looks at the inputs of a layer, the sum is over the channel's columns only,
as Wanda-sp and FLAP do (CASIA-IVA-Lab/FLAP, lib/prune.py). architectures/ says what is coupled.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from sparseft.architectures.architecture import Part
from sparseft.checkpoints.checkpoint import Checkpoint, infinity, to_float32
from sparseft.checkpoints.layers import coupled_parts, prunable_shapes
from sparseft.errors import InputError
from sparseft.masks.mask_file import pack, row_bytes
from sparseft.masks.mask_kernels import (
    BINS,
    LOW,
    count_high,
    count_low,
    find_row_thresholds,
    rank_in_groups,
    write_masks,
)
from sparseft.patterns.channels import channels_removed
from sparseft.progress import show
from sparseft.pruning.mask_report import NO_SCORES, Distribution, distribution_of_histogram, distribution_of_values
from sparseft.pruning.scores import Source, row_blocks
from sparseft.study.mask_settings import Masks

# Takes a layer, a byte offset in the layer's mask, and mask bytes, uint8 (levels, n).
Emit = Callable[[str, int, np.ndarray], None]
Scores = dict[str, Distribution]


@dataclass(frozen=True)
class Ranking:
    """Rank the scores of all layers. Each way writes all masks and returns the distribution of the scores by layer.

    source: yields the scores of a layer, block by block; a second reading yields the same blocks
    shape: layer -> (rows, cols)
    dtypes: layer -> dtype of its scores, BF16, F16 or F32; None if their bits are not those of a float
    percents: the sparsities in percent, ascending; a level is the index of a sparsity
    emit: takes the masks; left out if only the scores are wanted
    allocated: layer -> how many of its weights each level prunes, int64 (levels,); None if every scope prunes its share
    checkpoint: the model, whose channels are coupled
    scope: what the settings rank together: layer, row, group or global
    sums_columns: whether the score of a unit is the sum over its columns only"""

    source: Source
    shape: dict[str, tuple[int, int]]
    dtypes: dict[str, str | None]
    percents: list[int]
    emit: Emit = lambda layer, offset, packed: None
    allocated: dict[str, np.ndarray] | None = None
    checkpoint: Checkpoint | None = None
    scope: str = "layer"
    sums_columns: bool = False
    settings: Masks = field(default_factory=Masks)
    threads: int = 1

    @property
    def layers(self) -> list[str]:
        """Return the names of the layers."""
        return list(self.shape)

    def counts(self, total: int) -> np.ndarray:
        """Return how many of `total` weights each level prunes, int64 (levels,). Halves are rounded to even."""
        return np.array([round(Fraction(percent * total, 100)) for percent in self.percents], np.int64)

    def layer_counts(self, layer: str, scope: int) -> np.ndarray:
        """Return how many weights of a layer each level prunes, int64 (levels,). A scope has `scope` weights."""
        if self.allocated is not None:
            return self.allocated[layer]
        return math.prod(self.shape[layer]) // scope * self.counts(scope)

    def distribution(self, layer: str, histogram: np.ndarray) -> Distribution:
        """Return the distribution of a layer's scores. Raises InputError if one is NaN or infinity."""
        dtype = self.dtypes[layer]
        if not dtype:
            return NO_SCORES
        # The histogram of 32-bit scores counts only the high digit.
        divisor = LOW if dtype == "F32" else 1
        if histogram[infinity(dtype) // divisor :].any():
            raise InputError(f"{layer}.weight holds NaN or infinity", "repair or replace the checkpoint")
        return distribution_of_histogram(histogram, dtype)

    def write(self, layer: str, make: Callable[[int, np.ndarray], np.ndarray]) -> None:
        """Write the masks of a layer. `make(row, block)` returns those of a block, uint8 (levels, n). Its first row is `row`."""
        cols = self.shape[layer][1]
        row = 0
        for block in self.source(layer):
            self.emit(layer, row * row_bytes(cols), make(row, block))
            row += block.size // cols

    def by_layer(self) -> Scores:
        """Rank the weights of each layer."""
        return self._in_threads(lambda layer: {layer: select_together(self, [layer])[0]}, self.layers)

    def by_row(self) -> Scores:
        """Rank the weights of each row."""
        return self._in_threads(lambda layer: {layer: select_rows(self, layer)}, self.layers)

    def by_group(self, size: int) -> Scores:
        """Rank every `size` consecutive weights of a row."""
        return self._in_threads(lambda layer: {layer: select_groups(self, layer, size)}, self.layers)

    def by_unit(self, groups: list[list[Part]], numbers: dict[str, list[int]] | None = None) -> Scores:
        """Rank the units of each group of layers by the sums of their scores. The layers of a group lose the same units.

        numbers: kind of unit -> how many units each level prunes; None if each level prunes its share of every group"""
        of_kind = numbers or {}
        return self._in_threads(lambda parts: select_units(self, parts, of_kind.get(parts[0].unit)), groups)

    def coupled_parts(self) -> list[list[Part]]:
        """Return the groups of layers whose channels are coupled. Each of the layers is in one of them."""
        assert self.checkpoint, "only a model has coupled layers"
        return [parts for parts in coupled_parts(self.checkpoint) if parts[0].layer in self.shape]

    def coupled_numbers(self) -> dict[str, list[int]]:
        """Return how many units each group of coupled layers loses at each level, by kind of unit."""
        assert self.checkpoint, "only a model has coupled layers"
        return coupled_numbers(self.checkpoint, self.percents, self.settings)

    def together(self) -> Scores:
        """Rank the weights of all layers together. Raises InputError if the dtypes of their scores differ."""
        dtypes = sorted(set(map(str, self.dtypes.values())))
        if len(dtypes) > 1:
            assert self.checkpoint, "only a model has several dtypes"
            raise InputError(
                f"{self.checkpoint.folder}: layers are in {' and '.join(dtypes)}, so they cannot be ranked together",
                "set masks.scope to layer or row",
            )
        return dict(zip(self.layers, select_together(self, self.layers), strict=True))

    def keep_all(self) -> Scores:
        """Keep every weight, without a look at the scores."""
        for layer, (rows, cols) in self.shape.items():
            row = pack(np.ones((1, cols), bool))
            self.emit(layer, 0, np.tile(row, (len(self.percents), rows)))
        return dict.fromkeys(self.layers, NO_SCORES)

    def _in_threads(self, select: Callable[..., Scores], items: Sequence) -> Scores:
        """Return the results of `select` for all items, in order. One layer is read while another is counted."""
        if len(items) == 1:
            return select(items[0])
        scores: Scores = {}
        with ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(select, item) for item in items]
            try:
                for future in show(futures, "mask", len(futures)):
                    scores |= future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return scores


def select_together(ranking: Ranking, layers: Sequence[str]) -> list[Distribution]:
    """Rank all weights of `layers` together, write their masks, and return the distribution of each layer's scores.

    This reads the scores twice, and 32-bit scores three times."""
    histograms = []
    for layer in layers:
        histogram = np.zeros(BINS, np.int32)
        for block in ranking.source(layer):
            count_high(block, histogram)
        histograms.append(histogram)
    scores = [ranking.distribution(layer, own) for layer, own in zip(layers, histograms, strict=True)]
    total = sum(math.prod(ranking.shape[layer]) for layer in layers)
    counts = ranking.layer_counts(layers[0], total) if len(layers) == 1 else ranking.counts(total)
    values, ties = _bins_of(np.add.reduce(histograms, axis=0, dtype=np.int64), counts)
    if block.dtype == np.uint32:
        values, ties = _with_low_digits(ranking, layers, values, ties)
    thresholds = values.astype(block.dtype)[None]
    for layer in layers:

        def make(_: int, block: np.ndarray, layer: str = layer) -> np.ndarray:
            # Every block counts the ties down.
            return _masks(block, ranking.shape[layer], thresholds, ties[None])

        ranking.write(layer, make)
    return scores


def select_rows(ranking: Ranking, layer: str) -> Distribution:
    """Rank every row of a layer by itself, write the layer's masks, and return the distribution of its scores.

    If the layer's count is not a multiple of its rows, the first rows prune one more weight than the others."""
    rows, cols = ranking.shape[layer]
    # (rows, levels)
    counts = (ranking.layer_counts(layer, cols) + np.arange(rows)[::-1, None]) // rows
    histogram = np.zeros(BINS, np.int32)

    def make(row: int, block: np.ndarray) -> np.ndarray:
        wanted = counts[row : row + block.size // cols]
        thresholds = np.empty(wanted.shape, block.dtype)
        ties = np.empty(wanted.shape, np.int64)
        find_row_thresholds(block.reshape(-1, cols), wanted, histogram, thresholds, ties)
        return _masks(block, ranking.shape[layer], thresholds, ties)

    ranking.write(layer, make)
    return ranking.distribution(layer, histogram)


def select_groups(ranking: Ranking, layer: str, group: int) -> Distribution:
    """Rank every `group` consecutive weights of a row by themselves (N:M), write the masks, and return the distribution.

    Raises InputError if the groups do not divide a row."""
    rows, cols = ranking.shape[layer]
    check_groups(layer, cols, group)
    counts = ranking.layer_counts(layer, group) // (rows * cols // group)
    histogram = np.zeros(BINS, np.int32)

    def make(_: int, block: np.ndarray) -> np.ndarray:
        count_high(block, histogram)
        ranks = np.empty(block.size, np.uint8)
        rank_in_groups(block, group, ranks)
        return np.stack([pack(ranks.reshape(-1, cols) >= count).reshape(-1) for count in counts])

    ranking.write(layer, make)
    return ranking.distribution(layer, histogram)


def coupled_numbers(checkpoint: Checkpoint, percents: list[int], settings: Masks) -> dict[str, list[int]]:
    """Return how many units each group of coupled layers loses by sparsity, in percent: kind of unit -> number by sparsity.

    Raises InputError as `channels_removed` does."""
    shapes = prunable_shapes(checkpoint)
    config, place = checkpoint.config, checkpoint.folder
    return channels_removed(checkpoint.architecture, config, shapes, percents, settings.head_share, place)


def unit_scores(ranking: Ranking, parts: list[Part]) -> np.ndarray:
    """Return the scores of the coupled units of `parts`, fp64 (units,). Units without columns are scored by their rows."""
    summed = [part for part in parts if part.axis == 1 or not ranking.sums_columns] or parts
    return np.sum([_part_scores(ranking, part) for part in summed], axis=0)


def select_units(ranking: Ranking, parts: list[Part], numbers: list[int] | None) -> Scores:
    """Rank the coupled units of `parts`, write the masks of their layers, and return the units' scores by layer.

    numbers: how many units each level prunes; None if it prunes its share"""
    units = unit_scores(ranking, parts)
    ranks = np.argsort(np.argsort(units, kind="stable"))
    counts = ranking.counts(units.size) if numbers is None else np.array(numbers)
    kept_units = ranks >= counts[:, None]  # (levels, units)
    for part in parts:
        rows, cols = ranking.shape[part.layer]
        kept = np.repeat(kept_units, part.width, axis=1)  # (levels, rows) or (levels, cols)
        row = pack(np.ones((1, cols), bool))
        for block in row_blocks(rows, cols):
            if part.axis == 0:
                packed = kept[:, block.start : block.stop, None] * row
            else:
                packed = np.repeat(pack(kept)[:, None], len(block), axis=1)
            ranking.emit(part.layer, block.start * row_bytes(cols), packed.reshape(len(kept), -1))
    return dict.fromkeys([part.layer for part in parts], distribution_of_values(*np.unique(units, return_counts=True)))


def check_groups(layer: str, cols: int, group: int) -> None:
    """Raise InputError if the groups of N:M do not divide a layer's rows."""
    if cols % group:
        raise InputError(
            f"{layer}: its {cols} columns cannot be divided into groups of {group}",
            "leave the method out of grid.methods",
        )


def _masks(block: np.ndarray, shape: tuple[int, int], thresholds: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Return the packed masks of some whole rows, uint8 (levels, n). `thresholds` and `ties`: those of `write_masks`."""
    cols = shape[1]
    packed = np.empty((thresholds.shape[1], block.size // cols * row_bytes(cols)), np.uint8)
    # If each row fills whole bytes, rows of one scope are written as one long row.
    is_one_row = cols % 8 == 0 and len(thresholds) == 1
    write_masks(block, block.size if is_one_row else cols, thresholds, ties, packed)
    return packed


def _with_low_digits(
    ranking: Ranking, layers: Sequence[str], digits: np.ndarray, ties: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole 32-bit thresholds and their ties, both int64 (levels,).

    `digits` has the high digits of the thresholds, and `ties` the number of weights to prune with each of these digits."""
    used, places = np.unique(digits, return_inverse=True)
    # High digit -> row of `low`; -1 if no threshold has this digit.
    slots = np.full(BINS, -1, np.int8)
    slots[used] = np.arange(used.size)
    # int32 is enough for one layer, which has fewer than 2^31 weights, and takes half of the cache. A model needs int64.
    low = np.zeros((used.size, LOW), np.int32 if len(layers) == 1 else np.int64)
    for layer in layers:
        for block in ranking.source(layer):
            count_low(block, slots, low)
    bins, low_ties = zip(*(_bins_of(low[place], ties[[level]]) for level, place in enumerate(places)), strict=True)
    return digits * LOW + np.concatenate(bins), np.concatenate(low_ties)


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


def _part_scores(ranking: Ranking, part: Part) -> np.ndarray:
    """Return the sums over a part's rows (axis 0) or columns (axis 1), then over the channels of each unit, fp64 (units,)."""
    cols = ranking.shape[part.layer][1]
    dtype = ranking.dtypes[part.layer]
    sums = []
    for bits in ranking.source(part.layer):
        # Random bits are numbers, and those of no float.
        sizes = (np.abs(to_float32(bits, dtype)) if dtype else bits).reshape(-1, cols)
        if not np.isfinite(sizes).all():
            raise InputError(f"{part.layer}.weight holds NaN or infinity", "repair or replace the checkpoint")
        sums.append(sizes.sum(axis=1 - part.axis, dtype=np.float64))
    channels = np.concatenate(sums) if part.axis == 0 else np.sum(sums, axis=0)
    return channels.reshape(-1, part.width).sum(axis=1)
