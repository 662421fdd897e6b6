"""Run a model decoder layer by decoder layer.

A `Stream` holds what enters a decoder layer. A `LayeredModel` has the weights of one decoder layer in memory at a time. The
other decoder layers are on torch's meta device, which holds shapes without values.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import ROTARY_BUFFER, decoder_layer_of
from sparseft.language_model.batches import Example
from sparseft.language_model.model import empty_model
from sparseft.language_model.weights import memory_path, read_weight, unfuse_experts

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


def layer_arguments(model: nn.Module, ids: Tensor) -> tuple[Tensor, list[dict]]:
    """Return the hidden states (B, T, H) that enter the first decoder layer for `ids` (B, T), and each layer's keywords.

    The keywords are attention masks and rotary angles, which may differ from layer to layer. The layers compute nothing here:
    each notes its keywords, and returns the hidden states as they are."""
    inputs: list[Tensor] = []
    keywords: list[dict] = []

    def note(states: Tensor, **layer_keywords: object) -> Tensor:
        inputs.append(states)
        keywords.append(layer_keywords)
        return states

    for layer in model.model.layers:
        # The attribute hides the method of the class until it is deleted.
        layer.forward = note
    try:
        model.get_decoder()(input_ids=ids, use_cache=False)
    finally:
        for layer in model.model.layers:
            del layer.forward
    return inputs[0], keywords


class Stream:
    """Hold the hidden states of the examples that enter a decoder layer, and compute the layer on some of them."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, examples: list[Example], device: torch.device) -> None:
        self.model = model
        self.device = device
        # (tokens, H) for each example.
        self.states = [layer_arguments(model, torch.tensor([example.ids], device=device))[0][0] for example in examples]
        # Shape of a batch, (B, T) -> the keywords of every decoder layer, which depend only on the shape.
        self._keywords: dict[tuple[int, int], list[dict]] = {}

    def outputs(self, number: int, batch: list[int]) -> Tensor:
        """Return the outputs of decoder layer `number` for a batch of examples, given by their numbers.

        They are joined to (tokens of the batch, H). The examples are padded on the right. Causal attention lets no real token
        see a padded one."""
        states = [self.states[example] for example in batch]
        # (B, T, H)
        padded = pad_sequence(states, batch_first=True)
        outputs = self.model.model.layers[number](padded, **self._arguments(padded.shape[:2])[number])
        return torch.cat([row[: len(own)] for row, own in zip(outputs, states, strict=True)])

    def by_example(self, batch: list[int], outputs: Tensor) -> list[Tensor]:
        """Return what `outputs` returned for a batch, divided into its examples."""
        return list(outputs.split([len(self.states[example]) for example in batch]))

    def advance(self, batch: list[int], outputs: Tensor) -> None:
        """Let what `outputs` returned for a batch enter the next decoder layer."""
        for example, states in zip(batch, self.by_example(batch, outputs), strict=True):
            self.states[example] = states

    @torch.no_grad()
    def _arguments(self, shape: torch.Size) -> list[dict]:
        """Return the keywords of every decoder layer for a batch of this shape."""
        if shape not in self._keywords:
            ids = torch.zeros(shape, dtype=torch.long, device=self.device)
            self._keywords[shape] = layer_arguments(self.model, ids)[1]
        return self._keywords[shape]
