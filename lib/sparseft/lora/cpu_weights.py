"""Build the effective weight and mask a gradient on a CPU, with the loops of weight_kernels.py.

The rows are divided among torch's threads. No weight depends on the division.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from sparseft.lora import weight_kernels
from sparseft.lora.row_blocks import row_blocks


def build(out: Tensor, W: Tensor, A: Tensor, B: Tensor) -> None:
    """Write (W + B A) * M to `out`, as effective_weight.py defines it.

    W and out (rows, cols) are bf16, fp16 or fp32. A (r, cols) and B (rows, r), which holds s B, are fp32."""
    if W.dtype == torch.float16:
        _build_half(out, W, A, B)
        return
    weights = _words(W)
    merged = _words(out)
    a = A.detach().contiguous().numpy()
    b = B.detach().contiguous().numpy()
    _by_rows(lambda rows: weight_kernels.merge_rows(weights[rows], a, b[rows], merged[rows]), len(weights))


def mask_(values: Tensor, W: Tensor) -> None:
    """Compute values * M in place. Both are (rows, cols) and of one dtype."""
    words = _words(values)
    weights = _words(W)
    sign = weights.dtype.type(1 << 8 * weights.itemsize - 1)
    _by_rows(lambda rows: weight_kernels.mask_rows(words[rows], weights[rows], sign), len(weights))


def _build_half(out: Tensor, W: Tensor, A: Tensor, B: Tensor) -> None:
    """Do as `build` for fp16, which the compiled loop does not read: compute in fp32, and round as the last step.

    -0.0 stays -0.0 in fp32, so the mask is still there."""
    for rows in row_blocks(W):
        block = W[rows].float()
        build(block, block, A, B[rows])
        out[rows] = block


def _by_rows(function: Callable[[slice], None], row_count: int) -> None:
    """Call `function` with slices that together are all rows, one slice per thread of torch."""
    threads = min(row_count, torch.get_num_threads())
    if threads == 1:
        function(slice(None))
        return
    # The number of rows per part is rounded up, so that there are at most as many parts as threads.
    step = (row_count + threads - 1) // threads
    parts = [slice(start, start + step) for start in range(0, row_count, step)]
    # The loop reads the results, because an error in a thread would be lost otherwise.
    for _ in _pool(threads).map(function, parts):
        pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool of threads. It is started once per process."""
    return ThreadPoolExecutor(threads)


def _words(weight: Tensor) -> np.ndarray:
    """Return the bits of a weight on the CPU as unsigned integers (rows, cols), in the weight's own memory.

    They must not be used after the weight is freed. Use the address, because tensor.numpy() would stop FSDP from freeing the
    tensor."""
    rows, cols = weight.shape
    row_step = weight.stride()[0]
    size = weight.element_size()
    memory = (ctypes.c_char * (((rows - 1) * row_step + cols) * size)).from_address(weight.data_ptr())
    words = np.frombuffer(memory, f"u{size}")
    return np.lib.stride_tricks.as_strided(words, (rows, cols), (row_step * size, size))
