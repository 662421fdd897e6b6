"""Stream a checkpoint as one safetensors file, in its own dtypes or rounded to another."""

from collections.abc import Iterable, Iterator

import numpy as np

from sparseft.checkpoints.checkpoint import BLOCK, DTYPES, Checkpoint, lay_out, safetensors_header


def safetensors_stream(checkpoint: Checkpoint, names: Iterable[str], dtype: str | None = None) -> Iterator[np.ndarray]:
    """Yield the file's bytes in order, uint8: the header, then the tensors `names`, one block of rows at a time.

    Every tensor is rounded to `dtype` (BF16, F16, F32). Without `dtype` each keeps its own."""
    tensors = [checkpoint.tensors[name] for name in names]
    layout = lay_out(checkpoint.folder, {tensor.name: (dtype or tensor.dtype, tensor.shape) for tensor in tensors})
    yield np.frombuffer(safetensors_header(layout.values()), np.uint8)
    for tensor in tensors:
        for bits in checkpoint.read_blocks(tensor.name, BLOCK):
            yield converted(bits, tensor.dtype, dtype or tensor.dtype)


def converted(bits: np.ndarray, dtype: str, target: str) -> np.ndarray:
    """Return the bytes, uint8, of values in `dtype` after rounding to `target`. The values are given as bits (n,)."""
    if dtype == target:
        return bits.view(np.uint8)
    # numpy has no bfloat16. Imported here, because planning must not import torch.
    import torch

    kinds = {code: getattr(torch, name) for name, code in DTYPES.items()}
    return torch.from_numpy(bits).view(kinds[dtype]).to(kinds[target]).view(torch.uint8).numpy()
