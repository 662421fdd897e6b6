"""The effective weight W' = (W + s B A) * M, built into buffers that all layers of a model share.

M takes no memory: in a weight that carries its mask a pruned entry is -0.0 and a kept zero is +0.0, so that
M = (bits of W != sign bit). W' is summed in fp32 and rounded to W's dtype once. Training multiplies by it and the merge
writes it: one function and one order of sums, hence the same bits, on one device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes a weight
# Weights a block: on a CPU what stays in a core's cache, on a GPU enough to keep it busy.
_BLOCK = {"cpu": 1 << 20, "cuda": 1 << 24}


def carry_mask_(weight: Tensor, kept: Tensor) -> Tensor:
    """W * M in place, with M in it. weight: any float dtype (out, in); kept: bool (out, in)."""
    bits, sign = _bits(weight)
    bits &= torch.ne(bits, sign, out=torch.empty_like(bits)).neg_()  # a kept -0.0 would read as pruned
    keep = kept.to(bits.dtype).neg_()
    bits &= keep
    bits |= keep.bitwise_not_().bitwise_and_(sign)
    return weight


def carried_mask(weight: Tensor) -> Tensor:
    """M, bool (out, in), of a weight that carries it."""
    bits, sign = _bits(weight)
    return bits != sign


def row_blocks(weight: Tensor) -> Iterator[slice]:
    """The rows of (out, in) that are worked on together."""
    rows = max(1, _BLOCK.get(weight.device.type, _BLOCK["cpu"]) // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        yield slice(start, min(start + rows, weight.shape[0]))


class Workspace:
    """The buffers: one W' and a few of its blocks, as large as the largest layer needs. For one thread at a time."""

    def __init__(self) -> None:
        self._buffers: dict[tuple, Tensor] = {}
        self._cache: dict[int, Tensor] | None = None

    @torch.no_grad()
    def merged(self, W: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
        """W' (out, in) in W's dtype, in a buffer that the next call may overwrite.

        W (out, in) carries its mask; A (r, in) and B (out, r) in fp32, fp64 with an fp64 W."""
        if self._cache is None:
            return self._build(self.take("merged", W.shape, W), W, A, B, scale)
        if W.data_ptr() not in self._cache:
            self._cache[W.data_ptr()] = self._build(torch.empty_like(W), W, A, B, scale)
        return self._cache[W.data_ptr()]

    @contextmanager
    def caching(self) -> Iterator[None]:
        """Inside, every W' is built once and kept, a second model in memory: the adapters must not change here."""
        self._cache = {}
        try:
            yield
        finally:
            self._cache = None

    def freeze(self) -> None:
        """From now on as inside `caching`: for adapters that change no more."""
        self._cache = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The buffer of that name and of the dtype and device of `like`; what it holds is left from before."""
        key, size = (name, like.dtype, like.device), shape[0] * shape[1]
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._buffers[key][:size].view(shape)

    def mask_(self, values: Tensor, W: Tensor) -> Tensor:
        """values * M in place, M from W: what is pruned is +0.0, also where it was negative or not finite.

        Both (rows, in) and of one dtype. Bits times 0 or 1, as integers: no branch, and no sign of zero."""
        bits, sign = _bits(W)
        values.view(bits.dtype).mul_(torch.ne(bits, sign, out=self.take("keep", bits.shape, bits)))
        return values

    def _build(self, out: Tensor, W: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
        for rows in row_blocks(W):
            block, target = W[rows], out[rows]
            if W.dtype == A.dtype:
                torch.addmm(block, B[rows], A, alpha=scale, out=target)
            else:
                sums = self.take("sums", block.shape, A).copy_(block)
                target.copy_(sums.addmm_(B[rows], A, alpha=scale))
            self.mask_(target, block)
        return out


def _bits(weight: Tensor) -> tuple[Tensor, int]:
    """The bits of a weight as integers, and the sign bit alone."""
    integer = INTEGERS[weight.element_size()]
    return weight.view(integer), torch.iinfo(integer).min
