"""Run a model decoder layer by decoder layer, with the weights of one decoder layer in memory at a time.

The other decoder layers are on torch's meta device, which holds shapes without values.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import ROTARY_BUFFER, decoder_layer_of
from sparseft.language_model.experts import memory_path, unfuse_experts
from sparseft.language_model.model import empty_model
from sparseft.language_model.weights import read_weight

_LAYERS = "model.layers."


class LayeredModel:
    """Hold the model of a checkpoint, whose decoder layers have weights only while they are used. Its output head has none.

    Fused experts are single layers. A float16 model is in float32. Raises InputError if the tensors are not those that
    config.json describes, or as `load_model` does for another class or dtype."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        model = empty_model(checkpoint)
        if model.dtype == torch.float16:
            model.float()
        unfuse_experts(model)
        for module in model.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, buffer.to(device))
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = model.dtype
        self.model = model
        self._read(name for name in checkpoint.tensors if name.startswith("model.") and not name.startswith(_LAYERS))

    def __len__(self) -> int:
        """Return the number of decoder layers."""
        return len(self.model.model.layers)

    @contextmanager
    def layer(self, number: int) -> Iterator[nn.Module]:
        """Yield a decoder layer with its weights, which are freed after the block."""
        decoder_layer = self.model.model.layers[number]
        self._read(name for name in self.checkpoint.tensors if name.startswith(f"{_LAYERS}{number}."))
        try:
            yield decoder_layer
        finally:
            decoder_layer.to("meta")

    def linears(self, number: int, layers: Iterable[str]) -> dict[str, nn.Linear]:
        """Return the modules of those prunable `layers` that are in a decoder layer, by their names on disk."""
        own = [layer for layer in layers if decoder_layer_of(layer) == number]
        return {layer: self.model.get_submodule(self._path(layer)) for layer in own}

    def _path(self, name: str) -> str:
        """Return the name in memory of what has the name `name` on disk."""
        return memory_path(self.checkpoint.architecture, name)

    def _read(self, names: Iterable[str]) -> None:
        """Read tensors into the model."""
        for name in names:
            if ROTARY_BUFFER.search(name):
                continue
            weight = read_weight(self.checkpoint, name).to(self.device, self.dtype)
            module, _, attribute = self._path(name).rpartition(".")
            setattr(self.model.get_submodule(module), attribute, nn.Parameter(weight, requires_grad=False))
