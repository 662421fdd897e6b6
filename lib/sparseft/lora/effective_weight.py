"""Build the effective weight in buffers that all layers of a model share:

    W' = (W + s B A) * M

    W, W'   (out, in)   bfloat16, float16, float32 or float64; W is pruned and carries its mask
    A, B    (r, in), (out, r)   fp32, or fp64 with an fp64 W

The mask takes no memory. In a weight that carries its mask, a pruned entry is -0.0 and a kept zero is +0.0. So an entry is
kept if its bits are not those of -0.0, which are the sign bit.

s B A is summed over the ranks in fp32, starting at 0. W is added last, so that the terms are not rounded at the size of W.
The masked sum is rounded to W's dtype once.

The fp32 sum has rounding errors, so an entry may differ from the exact value rounded once. This was measured with SmolLM2's
weights and the adapter of a default run (r 8, 30 layers):

    float32    1.4 % of the entries differ, 91 % of these by one unit in the last place
    bfloat16   4 in 10 million differ, all by one unit in the last place

The larger differences lie where W is 0 or W + s B A nearly cancels.

Training multiplies by W', and the merge writes it. Both call the same function, with the same order of sums. So they get the
same bits on the same device.
"""

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import Tensor

from sparseft.lora import weight_kernels

# W's dtypes for which a CPU uses the compiled loop, with A and B in fp32. It takes a third to a half of torch's time.
COMPILED = (torch.bfloat16, torch.float32)
# Bytes of a weight -> the integer dtype that holds its bits.
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Weights per block: enough to keep the products fast, few enough to take little memory.
_BLOCK = {"cpu": 1 << 21, "cuda": 1 << 24}


def carry_mask_(weight: Tensor, kept: Tensor) -> Tensor:
    """Compute W * M in place, so that W carries M. weight: any float dtype (out, in); kept: bool (out, in)."""
    bits, sign = _bits(weight)
    # A kept -0.0 would read as pruned, so every -0.0 becomes +0.0. As an integer, -True has all bits set.
    bits &= torch.ne(bits, sign, out=torch.empty_like(bits)).neg_()
    keep = kept.to(bits.dtype).neg_()
    bits &= keep
    # What is pruned has no bits now, and gets the sign bit.
    bits |= keep.bitwise_not_().bitwise_and_(sign)
    return weight


def carried_mask(weight: Tensor) -> Tensor:
    """Return M, bool (out, in), of a weight that carries it."""
    bits, sign = _bits(weight)
    return bits != sign


def mask_on_device_(values: Tensor, W: Tensor, keep: Tensor) -> Tensor:
    """Compute values * M in place on any device, with the M that W carries.

    `keep` is scratch memory: integers of W's shape and width. The bits are multiplied by 0 or 1 as integers, so there is no
    branch, and a pruned value becomes +0.0."""
    bits, sign = _bits(W)
    values.view(bits.dtype).mul_(torch.ne(bits, sign, out=keep))
    return values


def row_blocks(weight: Tensor) -> Iterator[slice]:
    """Yield the blocks of rows of a weight (out, in) that are computed together."""
    rows = max(1, _BLOCK.get(weight.device.type, _BLOCK["cpu"]) // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        yield slice(start, min(start + rows, weight.shape[0]))


class Workspace:
    """Hold the buffers that all layers share: one W' and a few of its blocks, as large as the largest layer needs.

    Only one thread may use it."""

    def __init__(self) -> None:
        # Name, dtype and device -> flat memory.
        self._buffers: dict[tuple, Tensor] = {}
        # Address of W -> its W'; None if no W' is kept.
        self._cache: dict[int, Tensor] | None = None

    @torch.no_grad()
    def merged(self, W: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
        """Return W' (out, in) in W's dtype. The next call may overwrite it, except inside `caching` and after `freeze`.

        W (out, in) carries its mask. A (r, in) and B (out, r) are fp32, or fp64 with an fp64 W."""
        if self._cache is None:
            return self._build(self.take("merged", W.shape, W), W, A, B, scale)
        if W.data_ptr() not in self._cache:
            self._cache[W.data_ptr()] = self._build(torch.empty_like(W), W, A, B, scale)
        return self._cache[W.data_ptr()]

    @contextmanager
    def caching(self) -> Iterator[None]:
        """Build every W' only once inside the block, in which the adapters must not change.

        This takes memory for a second model."""
        self._cache = {}
        try:
            yield
        finally:
            self._cache = None

    def freeze(self) -> None:
        """Behave as inside `caching` from now on, because the adapters do not change any more."""
        self._cache = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return the buffer of that name in `shape`, with the dtype and device of `like`. Its old content is still in it."""
        key = (name, like.dtype, like.device)
        size = shape[0] * shape[1]
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._buffers[key][:size].view(shape)

    def mask_(self, values: Tensor, W: Tensor) -> Tensor:
        """Compute values * M in place, with the M that W carries. Both are (rows, in) and of one dtype.

        A pruned value becomes +0.0, even if it was negative or not finite."""
        if W.device.type == "cpu":
            return _mask_rows(values, W)
        return mask_on_device_(values, W, self.take("keep", W.shape, _bits(W)[0]))

    def _build(self, out: Tensor, W: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
        """Write W' to `out` and return it."""
        if W.device.type == "cpu" and W.dtype in COMPILED and A.dtype == torch.float32:
            return _merge_rows(out, W, A, scale * B)
        B = scale * B
        for rows in row_blocks(W):
            block = W[rows]
            target = out[rows]
            sums = target if W.dtype == A.dtype else self.take("sums", block.shape, A)
            # W is added last, so that the terms of the sum are not rounded at its size.
            torch.mm(B[rows], A, out=sums).add_(block)
            if sums is not target:
                target.copy_(sums)
            self.mask_(target, block)
        return out


def _mask_rows(values: Tensor, W: Tensor) -> Tensor:
    """Compute values * M in place by the compiled loop, and return it."""
    words = _words(values)
    weights = _words(W)
    sign = weights.dtype.type(1 << 8 * weights.itemsize - 1)
    _by_rows(lambda rows: weight_kernels.mask_rows(words[rows], weights[rows], sign), len(weights))
    return values


def _merge_rows(out: Tensor, W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Write (W + B A) * M to `out` by the compiled loop, and return it."""
    weights = _words(W)
    merged = _words(out)
    a = A.detach().clone(memory_format=torch.contiguous_format).numpy()
    b = B.detach().contiguous().numpy()
    _by_rows(lambda rows: weight_kernels.merge_rows(weights[rows], a, b[rows], merged[rows]), len(weights))
    return out


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


def _bits(weight: Tensor) -> tuple[Tensor, int]:
    """Return the bits of a weight as integers that share its memory, and the bits of -0.0."""
    integer = INTEGERS[weight.element_size()]
    return weight.view(integer), torch.iinfo(integer).min
