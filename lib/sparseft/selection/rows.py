"""Rank the weights of each row by themselves."""

import numpy as np

from sparseft.selection.kernels import find_row_thresholds, masks_of
from sparseft.selection.ranking import Ranking


def by_row(ranking: Ranking) -> None:
    """Rank the weights of each row. The scores are read once.

    If a layer's count is not a multiple of its rows, the first rows prune one more weight than the others."""

    def select(layer: str) -> None:
        rows, cols = ranking.shape[layer]
        # (rows, levels)
        counts = (ranking.layer_counts(layer, cols) + np.arange(rows)[::-1, None]) // rows

        def make(row: int, block: np.ndarray) -> np.ndarray:
            wanted = counts[row : row + block.size // cols]
            thresholds = np.empty(wanted.shape, block.dtype)
            ties = np.empty(wanted.shape, np.int64)
            find_row_thresholds(block.reshape(-1, cols), wanted, thresholds, ties)
            return masks_of(block, cols, thresholds, ties)

        ranking.write(layer, make)

    ranking.in_threads(select, ranking.layers)
