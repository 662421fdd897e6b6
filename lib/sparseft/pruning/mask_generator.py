"""Masks of every sparsity from one ranking a layer.

All weights of a layer are ranked once, ties by flat index (a stable sort); sparsity s prunes the first
round(s * n) of the ranking. So counts are exact and masks nested: what 50 % prunes, 60 % prunes too. A threshold
(`score <= t`) can do neither: bf16 magnitudes tie, and 50 % becomes 50.11 %.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from sparseft.checkpoints.checkpoint import Checkpoint, magnitude, reject_not_finite
from sparseft.checkpoints.layers import coupled_parts, prunable_layers, prunable_shapes
from sparseft.errors import InputError
from sparseft.grid import DENSE, split_method
from sparseft.pruning.importance import random_order
from sparseft.pruning.mask_ops import Mask, pack
from sparseft.pruning.structured import expand, unit_scores


def compute_masks(checkpoint: Checkpoint, method: str, sparsities: list[int], *, seed: int) -> dict[int, Mask]:
    """Masks of `method` for every sparsity (percent), of all prunable layers; scope: layer.

    Raises InputError for an unknown method, an unknown architecture, NaN or infinity in a weight."""
    pattern, importance = split_method(method)
    if pattern == DENSE and any(sparsities):
        raise InputError(f"method {DENSE!r} keeps every weight", "ask for sparsity 0, or for another method")
    meta = {"method": method, "pattern": pattern, "importance": importance, "scope": "layer", "coordinates": "hf"}
    meta |= {"base": checkpoint.digest, "seed": seed}
    bits: dict[int, dict[str, np.ndarray]] = {sparsity: {} for sparsity in sparsities}
    for layer, kept in _layer_masks(checkpoint, pattern, sparsities, seed):
        for sparsity, mask in zip(sparsities, kept, strict=True):
            bits[sparsity][layer] = pack(mask)
    shape = prunable_shapes(checkpoint)
    return {
        s: Mask(meta | {"sparsity": s / 100, "reached": reached(bits[s], shape)}, bits[s], shape) for s in sparsities
    }


def select(order: np.ndarray, sparsities: list[int]) -> list[np.ndarray]:
    """The masks, bool (n,), that prune the first round(s * n) places of `order`, int (n,), for every s in percent."""
    kept = []
    for sparsity in sparsities:
        mask = np.ones(order.size, bool)
        mask[order[: round(Fraction(sparsity * order.size, 100))]] = False
        kept.append(mask)
    return kept


def reached(bits: dict[str, np.ndarray], shape: dict[str, tuple[int, int]]) -> float:
    """The fraction of all weights that packed masks prune."""
    total = sum(rows * cols for rows, cols in shape.values())
    return 1 - sum(int(np.bitwise_count(packed).sum()) for packed in bits.values()) / total


def _layer_masks(
    checkpoint: Checkpoint, pattern: str, sparsities: list[int], seed: int
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(layer, its bool (rows, cols) masks, one a sparsity)."""
    if pattern == "structured":
        yield from _structured_masks(checkpoint, sparsities)
        return
    for layer in prunable_layers(checkpoint):
        tensor = checkpoint.tensors[f"{layer}.weight"]
        count = tensor.shape[0] * tensor.shape[1]
        if pattern == "random":
            order = random_order(layer, count, seed)
        elif pattern == DENSE:
            order = np.arange(count)
        else:
            weight = checkpoint.read(tensor.name)
            reject_not_finite(weight, tensor)
            order = np.argsort(magnitude(weight).ravel(), kind="stable")
        yield layer, [mask.reshape(tensor.shape) for mask in select(order, sparsities)]


def _structured_masks(checkpoint: Checkpoint, sparsities: list[int]) -> Iterator[tuple[str, list[np.ndarray]]]:
    for parts in coupled_parts(checkpoint):
        units = select(np.argsort(unit_scores(checkpoint, parts), kind="stable"), sparsities)
        for part in parts:
            shape = checkpoint.tensors[f"{part.layer}.weight"].shape
            yield part.layer, [expand(kept, part, shape) for kept in units]
