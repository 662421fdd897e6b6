"""Rank whole coupled channels, by the sum over all weights of a channel.

LLM-Pruner does so (arXiv 2305.11627, sections 3.1 and 3.2). If the importance looks at the inputs of a layer, the sum
is over the channel's columns only, as Wanda-sp and FLAP do (CASIA-IVA-Lab/FLAP, lib/prune.py). architectures/ says what
is coupled.
"""

import numpy as np

from sparseft.axes.architectures.architecture import Part
from sparseft.axes.selection.ranking import Ranking
from sparseft.storage.bits import pack, row_bytes, to_float32

# Rows of a mask that are written at once.
ROWS = 256


def by_unit(ranking: Ranking, groups: list[list[Part]], numbers: dict[str, list[int]] | None = None) -> None:
    """Rank the units of each group of layers by the sums of their scores. The layers of a group lose the same units.

    numbers: kind of unit -> how many units each level prunes; None if each level prunes its share of every group"""

    def select(parts: list[Part]) -> None:
        ranks = unit_ranks(ranking, parts)
        counts = np.array(numbers[parts[0].unit]) if numbers else ranking.counts(ranks.size)
        kept_units = ranks >= counts[:, None]  # (levels, units)
        for part in parts:
            rows, cols = ranking.shape[part.layer]
            kept = np.repeat(kept_units, part.width, axis=1)
            # (levels or 1, rows), and the bits of a row that is kept, (levels or 1, bytes).
            kept_rows = kept if part.axis == 0 else np.ones((1, rows), bool)
            row = pack(kept if part.axis == 1 else np.ones((1, cols), bool))
            for start in range(0, rows, ROWS):
                packed = kept_rows[:, start : start + ROWS, None] * row[:, None]
                ranking.emit(part.layer, start * row_bytes(cols), packed.reshape(len(kept), -1))

    ranking.in_threads(select, groups)


def unit_ranks(ranking: Ranking, parts: list[Part]) -> np.ndarray:
    """Return the ranks of the coupled units of `parts`, int64 (units,), by their scores. Units without columns are
    scored by their rows."""
    summed = [part for part in parts if part.axis == 1 or not ranking.sums_columns] or parts
    scores = np.sum([_part_scores(ranking, part) for part in summed], axis=0)
    return np.argsort(np.argsort(scores, kind="stable"))


def _part_scores(ranking: Ranking, part: Part) -> np.ndarray:
    """Return the sums over a part's rows (axis 0) or columns (axis 1), then over the channels of each unit, fp64
    (units,)."""
    cols = ranking.shape[part.layer][1]
    dtype = ranking.dtypes[part.layer]
    sums = []
    for bits in ranking.read(part.layer):
        # Random bits are numbers, and those of no float.
        sizes = (np.abs(to_float32(bits, dtype)) if dtype else bits).reshape(-1, cols)
        sums.append(sizes.sum(axis=1 - part.axis, dtype=np.float64))
    channels = np.concatenate(sums) if part.axis == 0 else np.sum(sums, axis=0)
    return channels.reshape(-1, part.width).sum(axis=1)
