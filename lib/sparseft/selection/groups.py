"""Rank the weights of each group of N:M by themselves."""

import numpy as np

from sparseft.selection.distribution import BINS
from sparseft.selection.kernels import count_high, rank_in_groups
from sparseft.selection.ranking import Ranking, Scores, check_groups
from sparseft.storage.bits import pack


def by_group(ranking: Ranking, group: int) -> Scores:
    """Rank every `group` consecutive weights of a row. The scores are read once.

    Raises InputError if the groups do not divide a row."""

    def select(layer: str) -> Scores:
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
        return {layer: ranking.distribution(layer, histogram)}

    return ranking.in_threads(select, ranking.layers)
