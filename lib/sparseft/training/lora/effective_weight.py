"""Build the effective weight of a layer. It has one definition for every device:

    W' = (W + s B A) * M

    W, W'   (out, in)   bfloat16, float16 or float32; in W a pruned entry is stored as -0.0, which is how W carries its
                        mask (carried_mask.py)
    A, B    (r, in), (out, r)   fp32

For the entry (i, j), all in fp32:

    total = 0
    for k in 0 ... r - 1:
        total = fma(s B[i, k], A[k, j], total)    s B[i, k] is rounded once, and each fma once
    total = total + W[i, j]                       last, because every term would be rounded to the precision of W
    otherwise W'[i, j] = total if kept, else +0.0           rounded once to W's dtype, to nearest even

The merge writes W' in every mode. A layer of sparse_to_sparse whose mask has no structure multiplies by it in training.
Two modules compute it, with the same bits (only those of a NaN may differ):

    cpu_weights       compiled loops, on a CPU
    triton_weights    Triton kernels, on a GPU

The fp32 sum has rounding errors, so an entry may differ from the exact value rounded once. This was measured with
SmolLM2's weights and the adapters of default runs (r 8, 30 layers):

    float32    0.2 % of the kept entries differ, and 1.2 % of those of a random mask
    bfloat16   4 in 10 million differ, all by one unit in the last place

The larger differences lie where W is 0 or W + s B A nearly cancels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from sparseft.training.lora import cpu_weights


class Workspace:
    """Hold the buffers that all layers share: one W' and a block of a gradient, as large as the largest layer needs.

    Only one thread may use it."""

    def __init__(self) -> None:
        # Name, dtype and device -> flat memory.
        self._buffers: dict[tuple, Tensor] = {}
        # Address of W -> its W'; None if no W' is kept.
        self._cache: dict[int, Tensor] | None = None

    @torch.no_grad()
    def merged(self, W: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
        """Return W' (out, in) in W's dtype. The next call may overwrite it, except inside `caching`.

        W (out, in) carries its mask. A (r, in) and B (out, r) are fp32."""
        if self._cache is None:
            return build(self.take("merged", W.shape, W), W, A, B, scale)
        if W.data_ptr() not in self._cache:
            self._cache[W.data_ptr()] = build(torch.empty_like(W), W, A, B, scale)
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

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return the buffer of that name in `shape`, with the dtype and device of `like`. Its old content is still in
        it."""
        key = (name, like.dtype, like.device)
        size = shape[0] * shape[1]
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._buffers[key][:size].view(shape)


def build(out: Tensor, W: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """Write W' to `out`, which may be W, and return it."""
    # The numbers of a rank lie together in s B, because the kernels of a GPU load them so.
    scaled = torch.mul(B.detach().T, scale, out=B.new_empty(B.shape[::-1])).T
    kernels(W.device).build(out, W, A, scaled)
    return out


def kernels(device: torch.device) -> ModuleType:
    """Return the module that computes with weights on this device."""
    if device.type == "cpu":
        return cpu_weights
    # Triton is large, and only a GPU needs it.
    from sparseft.training.lora import triton_weights

    return triton_weights
