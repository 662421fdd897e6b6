"""Convert the tensors of a checkpoint: all of them as one safetensors file, or one of them if no value changes."""

from collections.abc import Iterable, Iterator

import numpy as np

from sparseft.checkpoints.checkpoint import BITS, BLOCK, DTYPES, Checkpoint, lay_out, safetensors_header


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


def read_exactly(checkpoint: Checkpoint, name: str, dtype: str) -> np.ndarray | None:
    """Return a tensor's bits in `dtype` and its shape; None if a value is not the same in `dtype`."""
    tensor = checkpoint.tensors[name]
    bits = checkpoint.read(name)
    words = converted(bits.reshape(-1), tensor.dtype, dtype).view(BITS[dtype])
    is_exact = np.array_equal(converted(words, dtype, tensor.dtype), bits.reshape(-1).view(np.uint8))
    return words.reshape(tensor.shape) if is_exact else None
