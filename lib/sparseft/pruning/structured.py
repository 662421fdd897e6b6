"""Structured pruning: whole coupled channels, scored by the sum of |w| over all that belongs to a channel.

Source: LLM-Pruner (arXiv 2305.11627), sections 3.1 and 3.2, with magnitude as the importance and the sum as the
aggregation. What is coupled is said in checkpoints/layers.py.
"""

import numpy as np

from sparseft.checkpoints.checkpoint import Checkpoint, reject_not_finite, to_float32
from sparseft.checkpoints.layers import Part


def unit_scores(checkpoint: Checkpoint, parts: list[Part]) -> np.ndarray:
    """Sum of |w| over each coupled unit, fp64 (units,)."""
    return sum(_part_scores(checkpoint, part) for part in parts)


def expand(kept_units: np.ndarray, part: Part, shape: tuple[int, int]) -> np.ndarray:
    """bool (units,) -> the mask of one part's layer, bool (rows, cols)."""
    kept = np.repeat(kept_units, part.width)
    return np.broadcast_to(kept[:, None] if part.axis == 0 else kept[None, :], shape)


def _part_scores(checkpoint: Checkpoint, part: Part) -> np.ndarray:
    tensor = checkpoint.tensors[f"{part.layer}.weight"]
    bits = checkpoint.read(tensor.name)
    reject_not_finite(bits, tensor)
    weights = np.abs(to_float32(bits, tensor.dtype))
    channels = weights.sum(axis=1 - part.axis, dtype=np.float64)
    return channels.reshape(-1, part.width).sum(axis=1)
