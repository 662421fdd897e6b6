"""List the prunable layers of a checkpoint, their shapes, and how they are coupled.

A layer is the Hugging Face name of its weight, as it stands on disk, without ".weight".
"""

from sparseft.architectures.architecture import Part
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError


def prunable_layers(checkpoint: Checkpoint) -> list[str]:
    """Return the prunable layers in the order of their decoder layers.

    Raises InputError if the architecture is unknown or there is no prunable layer. It also does so if a prunable layer has a bias
    that the architecture does not have."""
    architecture = checkpoint.architecture
    names = [name.removesuffix(".weight") for name in checkpoint.tensors if name.endswith(".weight")]
    biased = architecture.prunable(name.removesuffix(".bias") for name in checkpoint.tensors if name.endswith(".bias"))
    unknown = [layer for layer in biased if not architecture.has_tensor(f"{layer}.bias")]
    if unknown:
        what = f"{unknown[0]}.bias is a bias, which {architecture.class_name} does not have here"
        raise InputError(f"{checkpoint.folder}: {what}", "use a model without it")
    layers = architecture.prunable(names)
    if not layers:
        raise InputError(f"{checkpoint.folder}: no prunable layer among {len(names)} weights", "check the checkpoint")
    return layers


def prunable_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """Return layer -> (rows, cols), in the order of `prunable_layers`. Raises InputError if one is not a matrix."""
    shapes = {layer: checkpoint.tensors[f"{layer}.weight"].shape for layer in prunable_layers(checkpoint)}
    for layer, shape in shapes.items():
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"{checkpoint.folder}: {layer} has the shape {shape}", "repair the checkpoint")
    return shapes


def decoder_layer_of(layer: str) -> int:
    """Return the number of the decoder layer that a layer is in."""
    return int(layer.split(".")[2])


def coupled_parts(checkpoint: Checkpoint) -> list[list[Part]]:
    """Return the groups of layers whose channels are removed together. Each prunable layer is in one group."""
    return checkpoint.architecture.coupled_parts(checkpoint.config, prunable_layers(checkpoint))
