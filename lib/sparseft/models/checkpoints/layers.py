"""Check the tensors of a checkpoint, and list its prunable layers, their shapes and how they are coupled.

A layer is the Hugging Face name of its weight, as it stands on disk, without ".weight".
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sparseft.axes.architectures import tensor_shapes
from sparseft.axes.architectures.prunable_model import PrunableModel
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import BLOCK, Checkpoint
from sparseft.storage.bits import is_finite

# Older transformers stored these buffers. Every model computes them from its configuration.
ROTARY_BUFFER = re.compile(r"(^|\.)rotary_emb\.inv_freq\Z")
_HEAD = "lm_head.weight"
_EMBEDDINGS = "model.embed_tokens.weight"


def prunable_layers(checkpoint: Checkpoint) -> list[str]:
    """Return the prunable layers in the order of their decoder layers.

    Raises InputError if the architecture is unknown or there is no prunable layer. It also does so if a prunable layer
    has a bias that the architecture does not have."""
    architecture = checkpoint.architecture
    names = [name.removesuffix(".weight") for name in checkpoint.tensors if name.endswith(".weight")]
    biased = architecture.prunable(name.removesuffix(".bias") for name in checkpoint.tensors if name.endswith(".bias"))
    unknown = [layer for layer in biased if not architecture.rows_of(f"{layer}.bias")]
    if unknown:
        what = f"{unknown[0]}.bias is a bias, which {architecture.class_name} does not have here"
        raise InputError(f"{checkpoint.folder}: {what}", "use a model without it")
    layers = architecture.prunable(names)
    if not layers:
        raise InputError(f"{checkpoint.folder}: no prunable layer among {len(names)} weights", "check the checkpoint")
    return layers


def prunable_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """Return layer -> (rows, cols), in the order of `prunable_layers`."""
    shapes = {}
    for layer in prunable_layers(checkpoint):
        rows, cols = checkpoint.tensors[f"{layer}.weight"].shape
        shapes[layer] = rows, cols
    return shapes


def prunable_model(checkpoint: Checkpoint) -> PrunableModel:
    """Return what can be removed from a model, without its weights."""
    return PrunableModel(checkpoint.architecture, checkpoint.config, prunable_shapes(checkpoint), checkpoint.folder)


def decoder_layer_of(layer: str) -> int:
    """Return the number of the decoder layer that a layer is in."""
    return int(layer.split(".")[2])


def check_tensors(checkpoint: Checkpoint, place: Path | str) -> None:
    """Raise InputError, naming `place`, if the names or shapes of the tensors are not those that config.json describes.

    Two extras are harmless and pass: the buffers of rotary embeddings, and the output head of a tied model if its
    weights are those of the embeddings."""
    expected = tensor_shapes(checkpoint.config, place)
    stored = {name: tensor.shape for name, tensor in checkpoint.tensors.items() if not ROTARY_BUFFER.search(name)}
    is_tied = stored.keys() - expected.keys() == {_HEAD} and _EMBEDDINGS in stored
    if is_tied and np.array_equal(checkpoint.read(_HEAD), checkpoint.read(_EMBEDDINGS)):
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


def differences(
    stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], noun: str = "tensors"
) -> list[str]:
    """Return how the stored tensors or layers differ from the expected ones, each with a count and the first name."""
    kinds = {
        "missing": expected.keys() - stored.keys(),
        "unknown to it": stored.keys() - expected.keys(),
        "of another shape": {
            f"{name} is {stored[name]}, not {expected[name]}"
            for name in expected.keys() & stored.keys()
            if expected[name] != stored[name]
        },
    }
    return [f"{len(names)} {noun} {kind} (first: {min(names)})" for kind, names in kinds.items() if names]
