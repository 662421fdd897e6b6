"""Run a model decoder layer by decoder layer.

A `LayeredModel` has the weights of one decoder layer in memory at a time. The other decoder layers are on torch's meta
device, which holds shapes without values. A `Stream` holds what enters a decoder layer.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import ROTARY_BUFFER, decoder_layer_of
from sparseft.models.language_model.hardware import gpu_share
from sparseft.models.language_model.model import computed_by, empty_model
from sparseft.models.language_model.weights import layer_paths, map_weight, memory_path, unfuse_experts

_LAYERS = "model.layers."


class LayeredModel:
    """Hold the model of a checkpoint, whose decoder layers have weights only while they are used. Its output head has
    none at first.

    Fused experts are single layers. With `widens_float16`, a float16 model is in float32. Raises InputError as
    `empty_model` does."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, *, widens_float16: bool = False) -> None:
        model = empty_model(checkpoint)
        if widens_float16 and model.dtype == torch.float16:
            model.float()
        unfuse_experts(model)
        for name, _ in list(model.named_buffers()):
            set_module_tensor_to_device(model, name, device)
        self.checkpoint = checkpoint
        self.device = device
        self.model = model
        self._read(name for name in checkpoint.tensors if name.startswith("model.") and not name.startswith(_LAYERS))

    def __len__(self) -> int:
        """Return the number of decoder layers."""
        return len(self.model.model.layers)

    def layers(self, numbers: Iterable[int]) -> Iterator[int]:
        """Yield the numbers of decoder layers. Each one has its weights until the next one is asked for."""
        for number in numbers:
            self._read(decoder_layer_tensors(self.checkpoint, number))
            try:
                yield number
            finally:
                self.model.model.layers[number].to("meta")

    def read_head(self) -> None:
        """Give the output head its weights. Those of a tied model are the embeddings."""
        self.model.tie_weights()
        self._read(name for name in self.checkpoint.tensors if not name.startswith("model."))

    def linears(self, number: int) -> dict[str, nn.Linear]:
        """Return the modules of the prunable layers in a decoder layer, by their names on disk."""
        paths = layer_paths(self.checkpoint)
        return {key: self.model.get_submodule(path) for key, path in paths.items() if decoder_layer_of(key) == number}

    def _read(self, names: Iterable[str]) -> None:
        """Read tensors into the model."""
        read_tensors(self.model, self.checkpoint, names, self.device)


def read_tensors(model: nn.Module, checkpoint: Checkpoint, names: Iterable[str], device: torch.device) -> None:
    """Read tensors of a checkpoint into its model, in the model's dtype. Its experts are unfused."""
    for name in names:
        if ROTARY_BUFFER.search(name):
            continue
        weight = map_weight(checkpoint, name).to(device, model.dtype)
        module, _, attribute = memory_path(checkpoint.architecture, name).rpartition(".")
        setattr(model.get_submodule(module), attribute, nn.Parameter(weight, requires_grad=False))


def decoder_layer_tensors(checkpoint: Checkpoint, number: int) -> list[str]:
    """Return the tensors of a decoder layer."""
    return [name for name in checkpoint.tensors if name.startswith(f"{_LAYERS}{number}.")]


def layer_arguments(model: nn.Module, ids: Tensor) -> tuple[Tensor, list[dict]]:
    """Return the hidden states (B, T, H) that enter the first decoder layer for `ids` (B, T), and each layer's
    keywords.

    The keywords are attention masks and rotary angles, which may differ from layer to layer. The layers compute nothing
    here: each notes its keywords, and returns the hidden states as they are."""
    inputs: list[Tensor] = []
    keywords: list[dict] = []

    def note(states: Tensor, **layer_keywords: object) -> Tensor:
        inputs.append(states)
        keywords.append(layer_keywords)
        return states

    with computed_by(note, model.model.layers):
        model.get_decoder()(input_ids=ids, use_cache=False)
    return inputs[0], keywords


def entering(model: nn.Module, number: int, states: Tensor) -> AbstractContextManager[None]:
    """Let `states` (B, T, H) enter decoder layer `number`, or the final norm after the last one, during the block.

    The decoder layers before it compute nothing."""
    return computed_by(lambda *_, **__: states, model.model.layers[:number])


def place_of_states(device: torch.device, size: int) -> torch.device:
    """Return where hidden states of `size` bytes are kept: on the device if they take at most an eighth of its free
    memory and of the job's share, so that the layers, their gradients and statistics have the rest; or in the
    machine's memory."""
    fits = device.type == "cuda" and size <= min(torch.cuda.mem_get_info(device)[0], gpu_share(device)) // 8
    return device if fits else torch.device("cpu")


class Stream:
    """Hold the hidden states of sequences that enter a decoder layer, and compute the layer on some of them.

    The states are on the device that computes if they fit. If not, they are in the machine's memory, and only those of
    a batch are on the device."""

    @torch.no_grad()
    def __init__(self, layered: LayeredModel, sequences: Sequence[Tensor], copies: int = 1) -> None:
        """The sequences are token ids, int64 (tokens,). The caller keeps at most so many `copies` of all states."""
        self.model = layered.model
        self.device = layered.device
        size = layered.model.config.hidden_size * layered.model.dtype.itemsize * sum(map(len, sequences))
        self.place = place_of_states(self.device, copies * size)
        # (tokens, H) for each sequence.
        self.states = [layer_arguments(self.model, ids[None].to(self.device))[0][0].to(self.place) for ids in sequences]
        # Shape of a batch, (B, T) -> the keywords of every decoder layer, which depend only on the shape.
        self._keywords: dict[tuple[int, int], list[dict]] = {}

    def outputs(self, number: int, batch: list[int]) -> Tensor:
        """Return the outputs of decoder layer `number` for a batch of sequences, given by their numbers.

        They are on the device, joined to (tokens of the batch, H). The sequences are padded on the right. Causal
        attention lets no real token see a padded one."""
        states = [self.states[sequence].to(self.device) for sequence in batch]
        # (B, T, H)
        padded = pad_sequence(states, batch_first=True)
        outputs = self.model.model.layers[number](padded, **self._arguments(padded.shape[:2])[number])
        return torch.cat([row[: len(state)] for row, state in zip(outputs, states, strict=True)])

    def by_sequence(self, batch: list[int], outputs: Tensor) -> list[Tensor]:
        """Return what `outputs` returned for a batch, divided into its sequences, where the states are."""
        return list(outputs.to(self.place).split([len(self.states[sequence]) for sequence in batch]))

    def advance(self, batch: list[int], outputs: Tensor) -> None:
        """Let what `outputs` returned for a batch enter the next decoder layer."""
        for sequence, states in zip(batch, self.by_sequence(batch, outputs), strict=True):
            self.states[sequence] = states

    @torch.no_grad()
    def _arguments(self, shape: torch.Size) -> list[dict]:
        """Return the keywords of every decoder layer for a batch of this shape."""
        if shape not in self._keywords:
            ids = torch.zeros(shape, dtype=torch.long, device=self.device)
            self._keywords[shape] = layer_arguments(self.model, ids)[1]
        return self._keywords[shape]
