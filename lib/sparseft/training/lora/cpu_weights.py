"""Build the effective weight on a CPU, (W + B A) * M, in compiled loops with one pass over W.

    W   (rows, cols)   bf16, fp16 or fp32; the loops read the bits of bf16 or fp32, uint16 or uint32
    A   (r, cols)      fp32
    B   (rows, r)      fp32, which holds s B

W carries its mask, as carried_mask.py says: the bits of -0.0 mark what is pruned. The rows are divided among torch's
threads, and no weight depends on the division. Every inner loop is over columns, so that the compiler computes many at
a time.

All loops are in one file, because numba's cache of compiled code notices an edit only in a function's own file.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from sparseft.storage.compiled import compiled
from sparseft.training.lora.carried_mask import row_blocks

# Columns at a time. Their sums stay in the first-level cache.
TILE = 2048
# The bits of bf16 are the upper half of those of fp32.
_UPPER = np.uint32(16)
_NAN = np.uint32(0x7FC0)
# A pool of so many threads, which is started once per process.
_pool = cache(ThreadPoolExecutor)


def build(out: Tensor, W: Tensor, A: Tensor, B: Tensor) -> None:
    """Write (W + B A) * M to `out`, as effective_weight.py defines it.

    W and out (rows, cols) are bf16, fp16 or fp32. A (r, cols) and B (rows, r), which holds s B, are fp32."""
    if W.dtype == torch.float16:
        # The compiled loop does not read fp16: compute in fp32, where -0.0 stays -0.0, and round as the last step.
        for rows in row_blocks(W):
            block = W[rows].float()
            build(block, block, A, B[rows])
            out[rows] = block
        return
    weights = _words(W)
    merged = _words(out)
    a = A.detach().contiguous().numpy()
    b = B.detach().contiguous().numpy()
    threads = min(len(weights), torch.get_num_threads())
    # Rounded up, so that there are at most as many parts as threads.
    step = (len(weights) + threads - 1) // threads

    def merge(start: int) -> None:
        rows = slice(start, start + step)
        merge_rows(weights[rows], a, b[rows], merged[rows])

    each = map if threads == 1 else _pool(threads).map
    # The loop reads the results, because an error in a thread would be lost otherwise.
    for _ in each(merge, range(0, len(weights), step)):
        pass


def _words(weight: Tensor) -> np.ndarray:
    """Return the bits of a weight on the CPU as unsigned integers (rows, cols), in the weight's own memory.

    They must not be used after the weight is freed. Use the address, because tensor.numpy() would stop FSDP from
    freeing the tensor."""
    size = weight.element_size()
    memory = {"version": 3, "typestr": f"<u{size}", "shape": tuple(weight.shape), "data": (weight.data_ptr(), False)}
    strides = tuple(step * size for step in weight.stride())
    return np.asarray(SimpleNamespace(__array_interface__=memory | {"strides": strides}))


@intrinsic
def fma(_, a, b, c):
    """Return a * b + c of fp32 numbers, rounded once: llvm.fma.

    The compiler has no choice there: on a processor without that instruction it calls the C library, which is slow and
    as exact."""
    number = types.float32
    return number(number, number, number), lambda context, builder, signature, arguments: builder.fma(*arguments)


@compiled
def merge_rows(W, A, B, out):
    """Write (W + B A) * M to `out`.

    W and out are uint16 (rows, cols), the bits of bf16, or uint32, those of fp32. A is fp32 (r, cols). B is fp32 (rows,
    r) and holds s B. A pruned weight becomes +0.0."""
    rows, cols = W.shape
    is_bf16 = W.itemsize == 2
    pruned = W.dtype.type(1 << 8 * W.itemsize - 1)
    totals = np.empty(TILE, np.float32)
    bits = np.empty(TILE, np.uint32)
    floats = bits.view(np.float32)
    for begin in range(0, cols, TILE):
        number = min(TILE, cols - begin)
        for row in range(rows):
            w = W[row, begin : begin + number]
            merged = out[row, begin : begin + number]
            totals[:] = 0
            for k in range(A.shape[0]):
                a = A[k, begin : begin + number]
                b = B[row, k]
                for j in range(number):
                    totals[j] = fma(b, a[j], totals[j])
            for j in range(number):
                bits[j] = np.uint32(w[j]) << _UPPER if is_bf16 else w[j]
            for j in range(number):
                floats[j] += totals[j]
            for j in range(number if is_bf16 else 0):
                # To nearest even. The addition would turn a NaN whose bits are all set into -0.0.
                odd = bits[j] >> _UPPER & np.uint32(1)
                rounded = bits[j] + odd + np.uint32(0x7FFF) >> _UPPER
                bits[j] = rounded if floats[j] == floats[j] else _NAN
            for j in range(number):
                merged[j] = bits[j] if w[j] != pruned else 0
