"""Read the scores of a layer block by block, as raw bits that order like the scores.

A block holds whole rows, flat, as uint16 or uint32. The sign bit means nothing. A source can be read again, and gives
the same blocks in the same order. Every importance is in importances/; random scores are here, because they look at no
weight.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from sparseft.checkpoints.checkpoint import BLOCK, Checkpoint
from sparseft.importances import Importance
from sparseft.selection.ranking import Source
from sparseft.storage.bits import to_float32


def random_source(shapes: dict[str, tuple[int, int]], seed: int) -> Source:
    """Return 31 random bits per weight, which depend only on the seed, the layer's name and the place.

    Every row takes whole 64-bit words of Philox, so that the bits are the same on every machine. `shapes` has layer ->
    (rows, cols)."""

    def blocks(layer: str) -> Iterator[np.ndarray]:
        key = hashlib.sha256(f"{seed}/{layer}".encode()).digest()[:16]
        generator = np.random.Philox(key=int.from_bytes(key, "little"))
        rows, cols = shapes[layer]
        words_per_row = (cols + 1) // 2
        step = max(1, BLOCK // cols)
        for start in range(0, rows, step):
            words = generator.random_raw(min(step, rows - start) * words_per_row)
            bits = words.astype("<u8").view("<u4").reshape(-1, 2 * words_per_row)
            yield np.ascontiguousarray(bits[:, :cols]).reshape(-1)

    return blocks


def scored_source(checkpoint: Checkpoint, importance: Importance, evidence: dict[str, np.ndarray] | None) -> Source:
    """Return the scores of an importance that has a `score`, fp32. `evidence` is its statistic by layer; None without
    one."""
    score = importance.score
    assert score, f"{importance.name} has no score"

    def blocks(layer: str) -> Iterator[np.ndarray]:
        of_layer: Any = evidence and evidence[layer]
        has_rows = importance.statistic and importance.statistic.of_gradients
        column_sums = None
        if importance.uses_column_sums:
            sums = (np.abs(block).sum(axis=0, dtype=np.float64) for block in _read_weights(checkpoint, layer))
            column_sums = sum(sums).astype(np.float32)
        start = 0
        for weights in _read_weights(checkpoint, layer):
            end = start + len(weights)
            yield bits_of(score(weights, of_layer[start:end] if has_rows else of_layer, column_sums))
            start = end

    return blocks


def _read_weights(checkpoint: Checkpoint, layer: str) -> Iterator[np.ndarray]:
    """Yield W of a layer, fp32 (rows, cols), some rows at a time."""
    tensor = checkpoint.tensors[f"{layer}.weight"]
    for bits in checkpoint.read_blocks(tensor.name, BLOCK):
        yield to_float32(bits, tensor.dtype).reshape(-1, tensor.shape[1])


def bits_of(scores: np.ndarray) -> np.ndarray:
    """Return fp32 scores as bits, uint32 (rows * cols,)."""
    return np.ascontiguousarray(scores).reshape(-1).view(np.uint32)
