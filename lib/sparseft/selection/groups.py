"""Rank the weights of each group of N:M by themselves."""

import numpy as np

from sparseft.selection.kernels import rank_in_groups
from sparseft.selection.ranking import Ranking, check_groups
from sparseft.storage.bits import pack


def by_group(ranking: Ranking, group: int) -> None:
    """Rank every `group` consecutive weights of a row. The scores are read once.

    Raises InputError if the groups do not divide a row."""

    def select(layer: str) -> None:
        rows, cols = ranking.shape[layer]
        check_groups(layer, cols, group)
        counts = ranking.layer_counts(layer, group) // (rows * cols // group)

        def make(_: int, block: np.ndarray) -> np.ndarray:
            ranks = np.empty(block.size, np.uint8)
            rank_in_groups(block, group, ranks)
            return np.stack([pack(ranks.reshape(-1, cols) >= count).reshape(-1) for count in counts])

        ranking.write(layer, make)

    ranking.in_threads(select, ranking.layers)
