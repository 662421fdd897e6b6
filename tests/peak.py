"""Count the memory of tensors, on the meta device too, where they have shapes but no memory."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Count the bytes of all storages that exist, and keep the largest sum in `peak`. `sent` are those of tensors that
    came from the CPU to the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.now = self.sent = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if function is torch.ops.aten._to_copy.default and result.is_meta and not args[0].is_meta:
            self.sent += args[0].nbytes
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)
