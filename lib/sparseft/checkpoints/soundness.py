"""Check that a checkpoint is sound: it has the tensors that config.json describes, and every weight is finite."""

import re
from pathlib import Path

import numpy as np

from sparseft.architectures import tensor_shapes
from sparseft.architectures.architecture import Shapes
from sparseft.checkpoints.checkpoint import BLOCK, Checkpoint, infinity
from sparseft.errors import InputError

# Older transformers stored these buffers. Every model computes them from its configuration.
ROTARY_BUFFER = re.compile(r"(^|\.)rotary_emb\.inv_freq$")
_HEAD = "lm_head.weight"
_EMBEDDINGS = "model.embed_tokens.weight"


def check_tensors(checkpoint: Checkpoint, place: Path | str) -> None:
    """Raise InputError, naming `place`, if the names or shapes of the tensors are not those that config.json describes.

    Two extras are harmless and pass: the buffers of rotary embeddings, and the output head of a tied model if its bytes
    are those of the embeddings."""
    expected = tensor_shapes(checkpoint.config, place)
    stored = {name: tensor.shape for name, tensor in checkpoint.tensors.items() if not ROTARY_BUFFER.search(name)}
    if stored.keys() - expected.keys() == {_HEAD} and _same_bytes(checkpoint, _HEAD, _EMBEDDINGS):
        del stored[_HEAD]
    faults = differences(stored, expected)
    if faults:
        what = f"{place}: it does not fit its config.json: {', '.join(faults)}"
        raise InputError(what, "repair or replace the checkpoint")


def check_finite_weights(checkpoint: Checkpoint, place: Path | str) -> None:
    """Raise InputError, naming `place`, if a tensor holds NaN or infinity. Reads every tensor, block by block."""
    for tensor in checkpoint.tensors.values():
        for bits in checkpoint.read_blocks(tensor.name, BLOCK):
            if not is_finite(bits, tensor.dtype):
                what = f"{place}: {tensor.name} holds NaN or infinity"
                raise InputError(what, "repair or replace the checkpoint, or prepare it in a dtype of a larger range")


def is_finite(bits: np.ndarray, dtype: str) -> bool:
    """Return whether no value is NaN or infinity. `bits` are unsigned words that hold values of `dtype`."""
    # The shift removes the sign.
    return bool((bits << 1).max(initial=0) < infinity(dtype) << 1)


def differences(stored: Shapes, expected: Shapes) -> list[str]:
    """Return how the stored tensors differ from the expected ones, each with a count and the first name."""
    kinds = {
        "missing": expected.keys() - stored.keys(),
        "unknown to it": stored.keys() - expected.keys(),
        "of another shape": {
            f"{name} is {stored[name]}, not {expected[name]}"
            for name in expected.keys() & stored.keys()
            if expected[name] != stored[name]
        },
    }
    return [f"{len(names)} tensors {kind} (first: {min(names)})" for kind, names in kinds.items() if names]


def _same_bytes(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Return whether two tensors are both there, with the same dtype, shape and bytes."""
    first = checkpoint.tensors.get(one)
    second = checkpoint.tensors.get(other)
    if not first or not second or (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    blocks = zip(checkpoint.read_blocks(one, BLOCK), checkpoint.read_blocks(other, BLOCK), strict=True)
    return all(np.array_equal(*pair) for pair in blocks)
