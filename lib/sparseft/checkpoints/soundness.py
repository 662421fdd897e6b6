"""What makes a checkpoint sound: the tensors are those that config.json describes, and every weight is a finite number."""

from pathlib import Path

import numpy as np

from sparseft.checkpoints.checkpoint import BLOCK, Checkpoint, infinity
from sparseft.checkpoints.layers import ROTARY_BUFFER
from sparseft.checkpoints.shapes import tensor_shapes
from sparseft.errors import InputError

_HEAD, _EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


def check_tensors(checkpoint: Checkpoint, place: Path | str) -> None:
    """Raise InputError, naming `place`, where the names or shapes of the tensors are not those that config.json describes.

    Two extras are harmless and pass: the buffers of rotary embeddings, which every model computes from its configuration,
    and the output head of a tied model, if it has the bytes of the embeddings."""
    expected = tensor_shapes(checkpoint.config, str(place))
    stored = {name: tensor.shape for name, tensor in checkpoint.tensors.items() if not ROTARY_BUFFER.search(name)}
    missing = sorted(expected.keys() - stored.keys())
    unknown = sorted(stored.keys() - expected.keys())
    differing = sorted(name for name in expected.keys() & stored.keys() if expected[name] != stored[name])
    if unknown == [_HEAD] and not missing and not differing and _same_bytes(checkpoint, _HEAD, _EMBEDDINGS):
        return
    faults = []
    if missing:
        faults.append(f"{len(missing)} tensors missing (first: {missing[0]})")
    if unknown:
        faults.append(f"{len(unknown)} tensors unknown to it (first: {unknown[0]})")
    if differing:
        first = differing[0]
        shapes = f"{first} is {stored[first]}, not {expected[first]}"
        faults.append(f"{len(differing)} tensors of another shape (first: {shapes})")
    if faults:
        raise InputError(
            f"{place}: does not fit its config.json: {', '.join(faults)}", "repair or replace the checkpoint"
        )


def check_finite_weights(checkpoint: Checkpoint, place: Path | str) -> None:
    """Raise InputError, naming `place`, where a tensor holds NaN or infinity; reads every tensor, block by block."""
    for tensor in checkpoint.tensors.values():
        for bits in checkpoint.read_blocks(tensor.name, BLOCK):
            magnitudes = bits << 1  # the sign is shifted out
            if magnitudes.max(initial=0) >= infinity(tensor.dtype) << 1:
                what = f"{place}: {tensor.name} holds NaN or infinity"
                raise InputError(what, "repair or replace the checkpoint, or prepare it in a dtype of a larger range")


def _same_bytes(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Say whether two tensors have the same dtype, shape and bytes."""
    first, second = checkpoint.tensors[one], checkpoint.tensors[other]
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    blocks = zip(checkpoint.read_blocks(one, BLOCK), checkpoint.read_blocks(other, BLOCK), strict=True)
    return all(np.array_equal(*pair) for pair in blocks)
