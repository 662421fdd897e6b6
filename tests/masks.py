"""Masks for tests: computed as the script computes them, and mask files made by hand."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sparseft.axes.architectures import find_architecture
from sparseft.axes.architectures.architecture import Part
from sparseft.axes.grid import PassFiles
from sparseft.axes.methods import get_method
from sparseft.axes.tasks import BY_NAME
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_layers
from sparseft.models.language_model.batches import Example
from sparseft.models.language_model.weights import memory_path
from sparseft.pruning import mask_generator
from sparseft.pruning.calibration import ExampleCalibration
from sparseft.pruning.mask_generator import MaskPass
from sparseft.pruning.masks.mask_file import Mask, MaskWriter, read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.storage.bits import to_float32
from torch import Tensor, nn

# The rows of a task, and how many of them the masks of some tests look at.
TASK = BY_NAME["boolq_mini"]
ROWS = TASK.generate("train", 8, 0)
NUMBER = 3


def coupled_parts(checkpoint: Checkpoint) -> list[list[Part]]:
    """Return the groups of layers whose channels are removed together."""
    return checkpoint.architecture.coupled_parts(checkpoint.config, prunable_layers(checkpoint))


def read_float32(checkpoint: Checkpoint, name: str) -> np.ndarray:
    return to_float32(checkpoint.read(name), checkpoint.tensors[name].dtype)


def compute_masks(
    checkpoint: Checkpoint, method: str, percents: list[int], calibration: object | None = None, /, threads: int = 1,
    **settings: object,
) -> dict[int, Mask]:  # fmt: skip
    """The masks of a method by sparsity, in percent; they stay mapped when their files are gone."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{percent}.pt" for percent in percents]
        places = PassFiles(paths, Path(folder) / "report.json")
        masks = pass_of(checkpoint, method, percents, places, Masks(**settings), calibration)
        mask_generator.compute_masks(replace(masks, threads=threads))
        return {percent: read_mask(path) for percent, path in zip(percents, paths, strict=True)}


def pass_of(
    checkpoint: Checkpoint, method: str, percents: list[int], places: PassFiles, settings: Masks | None = None,
    calibration: object | None = None,
) -> MaskPass:  # fmt: skip
    return MaskPass(checkpoint, get_method(method), percents, places, settings or Masks(), calibration)


@torch.no_grad()
def inputs_of(model: nn.Module, layers: list[str], examples: list[Example]) -> dict[str, Tensor]:
    """Return all that whole forward passes of stock transformers' model send through `layers`, float64 (tokens,
    cols)."""
    inputs = {layer: [] for layer in layers}
    architecture = find_architecture(model.config.architectures, "the model")
    hooks = [
        model.get_submodule(memory_path(architecture, layer)).register_forward_pre_hook(
            lambda _, args, layer=layer: inputs[layer].append(args[0].flatten(0, -2))
        )
        for layer in layers
    ]
    for example in examples:
        model(torch.tensor([example.ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return {layer: torch.cat(found).double() for layer, found in inputs.items()}


def looking_at(examples: list[Example]) -> ExampleCalibration:
    return ExampleCalibration(lambda checkpoint: examples, {"task": "boolq"})


def write_mask(path: Path, mask: Mask) -> None:
    """The inverse of read_mask, but for meta["reached"], which is counted."""
    meta = {key: value for key, value in mask.meta.items() if key != "reached"}
    writer = MaskWriter([path], [meta], mask.shape)
    for layer, bits in mask.bits.items():
        writer.write(layer, 0, bits.reshape(1, -1))
    writer.finish()
