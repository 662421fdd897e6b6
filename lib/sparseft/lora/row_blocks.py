"""Divide a weight into blocks of rows, so that what is computed of a block takes little memory."""

from collections.abc import Iterator

from torch import Tensor

# Weights per block, by device: enough to keep the products fast, and few enough to take little memory. A GPU has more cores
# to fill. There a block of bfloat16 takes 8 MB, which the L2 cache of a data centre's GPU holds (A100: 40 MB, H100: 50 MB).
BLOCK = {"cpu": 1 << 21, "cuda": 1 << 22}


def row_blocks(weight: Tensor) -> Iterator[slice]:
    """Yield the blocks of rows of a weight (out, in) that are computed together."""
    rows = max(1, BLOCK[weight.device.type] // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        yield slice(start, min(start + rows, weight.shape[0]))
