"""Rank the weights of each row by themselves."""

import numpy as np

from sparseft.selection.kernels import masks_of
from sparseft.selection.ranking import Ranking


def by_row(ranking: Ranking) -> None:
    """Rank the weights of each row. The scores are read once.

    If a layer's count is not a multiple of its rows, the first rows prune one more weight than the others."""

    def select(layer: str) -> None:
        rows, cols = ranking.shape[layer]
        # (rows, levels)
        counts = (ranking.layer_counts(layer, cols) + np.arange(rows)[::-1, None]) // rows

        def make(row: int, block: np.ndarray) -> np.ndarray:
            magnitudes = block.reshape(-1, cols) & block.dtype.type(np.iinfo(block.dtype).max >> 1)
            # numpy sorts 32 bits with vector instructions, and 16 bits by their digits if the sort must be stable.
            magnitudes.sort(axis=1, kind="stable" if block.itemsize == 2 else None)
            wanted = counts[row : row + len(magnitudes)]
            # The last magnitude that is pruned, (rows, levels).
            thresholds = np.take_along_axis(magnitudes, np.maximum(wanted - 1, 0), axis=1)
            below = [np.searchsorted(*of_row) for of_row in zip(magnitudes, thresholds, strict=True)]
            return masks_of(block, cols, thresholds, wanted - np.array(below))

        ranking.write(layer, make)

    ranking.in_threads(select, ranking.layers)
