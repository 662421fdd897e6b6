"""A checkpoint as the one safetensors file of its tensors, streamed, in their own dtype or rounded to another."""

from collections.abc import Iterable, Iterator

import numpy as np

from sparseft.checkpoints.checkpoint import BLOCK, Checkpoint, lay_out, safetensors_header
from sparseft.checkpoints.shapes import DTYPES


def safetensors_stream(checkpoint: Checkpoint, names: Iterable[str], dtype: str | None = None) -> Iterator[np.ndarray]:
    """Yield the file's bytes in order, uint8: the header, then the tensors `names`, a block of rows at a time.

    `dtype` (BF16, F16, F32) is what every tensor is rounded to; without it, each keeps its own."""
    tensors = [checkpoint.tensors[name] for name in names]
    kinds = {tensor.name: (dtype or tensor.dtype, tensor.shape) for tensor in tensors}
    yield np.frombuffer(safetensors_header(lay_out(checkpoint.folder, kinds).values()), np.uint8)
    for tensor in tensors:
        for bits in checkpoint.read_blocks(tensor.name, BLOCK):
            yield converted(bits, tensor.dtype, dtype or tensor.dtype)


def converted(bits: np.ndarray, dtype: str, target: str) -> np.ndarray:
    """Return the bytes of values in `dtype`, given as bits (n,), rounded to `target` as torch does; numpy lacks bfloat16."""
    if dtype == target:
        return bits.view(np.uint8)
    import torch

    kinds = {code: getattr(torch, name) for name, code in DTYPES.items()}
    return torch.from_numpy(bits).view(kinds[dtype]).to(kinds[target]).view(torch.uint8).numpy()
