"""Importance: a score for every prunable weight, as raw bits that order like it; the lowest scores are pruned first.

magnitude  |w|                     Han et al. 2015, arXiv 1506.02626, section 3
gradient   mean |dL/dw|            see calibration.py, where L and the mean are defined
taylor     mean |w dL/dw|          Molchanov et al. 2019, arXiv 1906.10771
wanda      |w| * ||x||             Sun et al. 2023, arXiv 2306.11695, section 3; x: the inputs that meet w
random     31 seeded random bits   the same on every machine; the baseline that any importance has to beat

Scores come in blocks of whole rows, flat, uint16 or uint32, whose sign bit means nothing; a source can be read again.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sparseft.checkpoints.checkpoint import Checkpoint, to_float32
from sparseft.checkpoints.layers import prunable_shapes

Source = Callable[[str], Iterator[np.ndarray]]  # a layer's scores, block by block
BLOCK = 1 << 20  # weights; a block and its masks stay in the second-level cache


@dataclass(frozen=True)
class Calibration:
    """What an importance that looks at a task's examples needs; calibration.py makes it.

    `importance`: the one it is for; `meta` goes into the masks; `source(checkpoint)` scores; `prune_in_sequence(checkpoint, prune)` is wanda's pass, which
    asks prune(layer, norms fp32 (cols,)) for a layer's mask, bool (rows, cols)."""

    importance: str
    meta: dict
    source: Callable[[Checkpoint], Source]
    prune_in_sequence: Callable[[Checkpoint, Callable[[str, np.ndarray], np.ndarray]], None]


def magnitude_source(checkpoint: Checkpoint) -> Source:
    """The weights' own bits, read from the files; one buffer a reader."""
    return lambda layer: checkpoint.read_blocks(f"{layer}.weight", BLOCK)


def random_source(checkpoint: Checkpoint, seed: int) -> Source:
    """Random bits that depend on the seed, the layer's name and the place alone: a row takes whole 64-bit words."""
    shapes = prunable_shapes(checkpoint)

    def blocks(layer: str) -> Iterator[np.ndarray]:
        key = hashlib.sha256(f"{seed}/{layer}".encode()).digest()[:16]
        generator = np.random.Philox(key=int.from_bytes(key, "little"))
        cols = shapes[layer][1]
        words = -(-cols // 2)
        for rows in row_blocks(*shapes[layer]):
            bits = generator.random_raw(len(rows) * words).astype("<u8").view("<u4")
            yield np.ascontiguousarray(bits.reshape(-1, 2 * words)[:, :cols]).reshape(-1)

    return blocks


def array_source(scores: dict[str, np.ndarray]) -> Source:
    """Scores in memory: non-negative fp32 (rows, cols) by layer."""

    def blocks(layer: str) -> Iterator[np.ndarray]:
        for rows in row_blocks(*scores[layer].shape):
            yield scores[layer][rows.start : rows.stop].reshape(-1).view(np.uint32)

    return blocks


def wanda_source(checkpoint: Checkpoint, norms: dict[str, np.ndarray]) -> Source:
    """|w| * ||x||, fp32; `norms`: fp32 (cols,) by layer."""

    def blocks(layer: str) -> Iterator[np.ndarray]:
        dtype = checkpoint.tensors[f"{layer}.weight"].dtype
        for bits in checkpoint.read_blocks(f"{layer}.weight", BLOCK):
            yield wanda_scores(to_float32(bits, dtype).reshape(-1, norms[layer].size), norms[layer])

    return blocks


def wanda_scores(weights: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """|w| * ||x|| of fp32 (rows, cols) and (cols,), as bits, uint32 (rows * cols,)."""
    return (np.abs(weights) * norms).reshape(-1).view(np.uint32)


def row_blocks(rows: int, cols: int) -> list[range]:
    """The rows of each block of a (rows, cols) matrix: about BLOCK weights."""
    step = max(1, BLOCK // cols)
    return [range(row, min(row + step, rows)) for row in range(0, rows, step)]
