"""Structured pruning: whole coupled channels, scored by the sum over all that belongs to a channel.

Source: LLM-Pruner (arXiv 2305.11627), sections 3.1 and 3.2, with the sum as the aggregation. What is coupled is said in
architectures/.
"""

import numpy as np

from sparseft.architectures.architecture import Part
from sparseft.checkpoints.checkpoint import to_float32
from sparseft.errors import InputError
from sparseft.masks.mask_file import pack
from sparseft.pruning.scores import Source


def unit_scores(
    source: Source, shape: dict[str, tuple[int, int]], dtypes: dict[str, str], parts: list[Part]
) -> np.ndarray:
    """Sum of the scores over each coupled unit, fp64 (units,)."""
    return sum(_part_scores(source, shape[part.layer], dtypes[part.layer], part) for part in parts)


def unit_mask(kept_units: np.ndarray, part: Part, shape: tuple[int, int], rows: range) -> np.ndarray:
    """The packed mask of some rows of one part's layer, uint8 (rows * ceil(cols / 8),), that keeps units by number."""
    units = np.zeros(shape[part.axis] // part.width, bool)
    units[kept_units] = True
    kept = np.repeat(units, part.width)
    if part.axis == 0:
        return (kept[rows.start : rows.stop, None] * pack(np.ones((1, shape[1]), bool))).reshape(-1)
    return np.tile(pack(kept[None])[0], len(rows))


def _part_scores(source: Source, shape: tuple[int, int], dtype: str, part: Part) -> np.ndarray:
    """Sums over rows (axis 0) or columns (axis 1), then over the `width` channels of a unit."""
    sums = []
    for bits in source(part.layer):
        sizes = np.abs(to_float32(bits, dtype)).reshape(-1, shape[1])
        if not np.isfinite(sizes).all():
            raise InputError(f"{part.layer}.weight holds NaN or infinity", "repair or replace the checkpoint")
        sums.append(sizes.sum(axis=1 - part.axis, dtype=np.float64))
    channels = np.concatenate(sums) if part.axis == 0 else np.sum(sums, axis=0)
    return channels.reshape(-1, part.width).sum(axis=1)
