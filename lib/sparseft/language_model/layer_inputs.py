"""Compute the decoder layers of a model one after the other."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sparseft.language_model.batches import Example


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
