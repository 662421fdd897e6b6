"""Hold the scores of a pass and take its masks. Memory is a few blocks per thread, for any model."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from sparseft.architectures.prunable_model import PrunableModel
from sparseft.errors import InputError
from sparseft.progress import show
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


def check_groups(layer: str, cols: int, group: int) -> None:
    """Raise InputError if the groups of N:M do not divide a layer's rows."""
    if cols % group:
        raise InputError(
            f"{layer}: its {cols} columns cannot be divided into groups of {group}",
            "leave the method out of grid.methods",
        )
