"""Structured pruning: remove whole coupled channels, scored by the sum over all weights of a channel.

Source: LLM-Pruner (arXiv 2305.11627), sections 3.1 and 3.2, with the sum as the aggregation. architectures/ says what is coupled.
"""

import numpy as np

from sparseft.architectures.architecture import Part
from sparseft.checkpoints.checkpoint import to_float32
from sparseft.errors import InputError
from sparseft.masks.mask_file import pack
from sparseft.pruning.mask_report import ScoreDistribution
from sparseft.pruning.scores import row_blocks
from sparseft.pruning.selection import Selection


def select_units(selection: Selection, parts: list[Part]) -> dict[str, ScoreDistribution]:
    """Rank the coupled units of `parts`, write the masks of their layers, and return the units' scores by layer."""
    units = sum(_part_scores(selection, part) for part in parts)  # fp64 (units,)
    order = np.argsort(units, kind="stable")
    kept_by_level = [order[count:] for count in selection.counts(units.size)]
    for part in parts:
        offset = 0
        for rows in row_blocks(*selection.shape[part.layer]):
            masks = [_unit_mask(kept, part, selection.shape[part.layer], rows) for kept in kept_by_level]
            packed = np.stack(masks)
            selection.emit(part.layer, offset, packed)
            offset += packed.shape[1]
    return dict.fromkeys([part.layer for part in parts], ScoreDistribution.of_values(units))


def _unit_mask(kept_units: np.ndarray, part: Part, shape: tuple[int, int], rows: range) -> np.ndarray:
    """Return the packed mask of some rows of a part's layer, uint8 (rows * ceil(cols / 8),), from the numbers of kept units."""
    units = np.zeros(shape[part.axis] // part.width, bool)
    units[kept_units] = True
    kept = np.repeat(units, part.width)
    if part.axis == 0:
        full_row = pack(np.ones((1, shape[1]), bool))
        return (kept[rows.start : rows.stop, None] * full_row).reshape(-1)
    return np.tile(pack(kept[None])[0], len(rows))


def _part_scores(selection: Selection, part: Part) -> np.ndarray:
    """Return the sums over a part's rows (axis 0) or columns (axis 1), then over the channels of each unit, fp64 (units,)."""
    cols = selection.shape[part.layer][1]
    sums = []
    for bits in selection.source(part.layer):
        sizes = np.abs(to_float32(bits, selection.dtypes[part.layer])).reshape(-1, cols)
        if not np.isfinite(sizes).all():
            raise InputError(f"{part.layer}.weight holds NaN or infinity", "repair or replace the checkpoint")
        sums.append(sizes.sum(axis=1 - part.axis, dtype=np.float64))
    channels = np.concatenate(sums) if part.axis == 0 else np.sum(sums, axis=0)
    return channels.reshape(-1, part.width).sum(axis=1)
